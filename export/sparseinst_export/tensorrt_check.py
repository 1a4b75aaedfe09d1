"""Whether TensorRT takes a graph, asked of TensorRT-RTX's parser and compiler, which need no GPU.

It proves that operators, shapes and types are taken for every batch size of a profile. It proves no result and no
speed: nothing runs, and the engine is another product's than the plan that Triton serves.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from sparseinst_export.verify import ExportError
from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from pathlib import Path

PROVES = (
    "TensorRT-RTX's parser and compiler were asked, on the CPU: operators, shapes and types, not results or speed. "
    "Nothing ran, and these engines are not what Triton serves: that is a plan of TensorRT itself, built on the GPU "
    "that serves it. Not verified on a GPU."
)
MAX_BATCH = 8  # where neither the caller nor the graph names the largest batch
COMPUTING = frozenset({"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul"})  # what nearly all time is spent in
NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "FLOAT8E4M3FN": "fp8"}
NO_DRIVER = "Cuda Runtime"  # in a line that TensorRT adds to errors on machines without a GPU


@dataclass(frozen=True)
class Profile:
    """Batch sizes that an engine takes (`smallest` to `largest`), and the one it is made for.

    Raises:
        ExportError: they are not in order.
    """

    smallest: int = 1
    usual: int = 4
    largest: int = MAX_BATCH

    def __post_init__(self) -> None:
        """Refuse what no engine can be built for."""
        if not 1 <= self.smallest <= self.usual <= self.largest:
            got = f"{self.smallest}, {self.usual}, {self.largest}"
            raise ExportError(f"batch sizes are {got}; wanted 1 <= smallest <= usual <= largest")


@dataclass(frozen=True)
class Check:
    """What became of one graph.

    Attributes:
        precisions: number of convolutions and matrix products in each precision: fp32, fp16, int8, ...
        nodes: operators in the graph.
        profile: batch sizes the engine was built for.
        parsed: the parser took the graph.
        engine_bytes: size of the engine; None where none was built.
        seconds: for parsing and building.
        refusals: why there is no engine, one sentence each.
    """

    precisions: dict[str, int]
    nodes: int
    profile: Profile
    parsed: bool
    engine_bytes: int | None
    seconds: float
    refusals: tuple[str, ...]

    @property
    def taken(self) -> bool:
        """Whether an engine was built."""
        return self.engine_bytes is not None


def check_tensorrt(path: Path, smallest: int = 1, usual: int | None = None, largest: int | None = None) -> Check:
    """Parse and compile a graph with TensorRT-RTX, strongly typed: precision is what the graph says.

    Args:
        path: ONNX file with one input whose first dimension, and no other, may be dynamic.
        smallest: smallest batch of the engine.
        usual: batch the engine is made for; 4 by default, within the other two.
        largest: largest batch; that of the contract inside the graph by default, 8 where it carries none.

    Raises:
        ExportError: no ONNX graph, dimensions that no batch profile covers, batch sizes out of order, or TensorRT-RTX
            is not installed.
        OSError: the file cannot be read.
    """
    trt = _library()
    model = _load(path)
    if largest is None:
        largest = max(_max_batch(model), smallest)
    profile = Profile(smallest, usual or max(smallest, min(4, largest)), largest)
    errors, logger = _logger(trt)
    start = time.perf_counter()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = bool(parser.parse(path.read_bytes(), str(path)))
    refusals, engine = [], None
    if parsed:
        config = builder.create_builder_config()
        shapes = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            _set_shapes(shapes, network.get_input(index), profile)
        config.add_optimization_profile(shapes)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            refusals = [f"the compiler gave no engine: {error}" for error in errors] or ["no engine and no reason"]
    else:
        operators = Counter(node.op_type for node in model.graph.node)
        refusals = [explain(parser.get_error(i), operators) for i in range(parser.num_errors)]
    return Check(
        precisions=precisions(model),
        nodes=len(model.graph.node),
        profile=profile,
        parsed=parsed,
        engine_bytes=None if engine is None else int(engine.nbytes),
        seconds=time.perf_counter() - start,
        refusals=tuple(dict.fromkeys(refusals)),
    )


def version() -> str:
    """The version of TensorRT-RTX; ExportError where it is not installed."""
    return str(_library().__version__)


def explain(error: Any, operators: Counter[str]) -> str:
    """A parser error as a sentence: in our words where the cause is known, in the parser's otherwise.

    Args:
        error: `tensorrt_rtx.ParserError`.
        operators: how many of each operator the graph has.
    """
    operator, message = error.node_operator(), _without_driver(error.desc())
    count = operators[operator]
    where = f"node {error.node_name() or error.node()} ({operator}{f', one of {count}' if count > 1 else ''})"
    if operator == "Transpose" and "type UInt8" in message:
        return f"{where}: TensorRT has no uint8 transpose; cast first, as in x.float().permute(...)"
    if operator == "DeformConv":
        return (
            f"{where}: needs a plugin for deformable convolution, which TensorRT-RTX has not; "
            "engines that can: ONNX Runtime on the CPU; not OpenVINO"
        )
    code = error.code().name.lower().replace("_", " ")
    return f"{where}: {code}" + ("" if message == "false" else f": {message}")


def precisions(model: onnx.ModelProto) -> dict[str, int]:
    """Convolutions and matrix products of a graph by what they compute in; those behind Q/DQ by the quantised type."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    made_by = {name: node for node in graph.node for name in node.output}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in COMPUTING:
            maker = made_by.get(node.input[0])
            quantised = maker is not None and maker.op_type == "DequantizeLinear"
            name = maker.input[0] if maker is not None and quantised else node.input[0]
            element = onnx.TensorProto.DataType.Name(types.get(name, 0))
            found[NAMES.get(element, element.lower())] += 1
    return dict(found.most_common())


def _library() -> Any:
    try:
        import tensorrt_rtx  # noqa: PLC0415, on Linux x86_64 only
    except ImportError as error:
        raise ExportError(
            f"tensorrt-rtx cannot be imported ({error}); pip install 'sparseinst[export]' brings it on Linux x86_64, "
            f"this is {platform.system()} {platform.machine()}"
        ) from error
    return tensorrt_rtx


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX graph ({error}); `sparseinst-export onnx` writes one") from error
    if not model.graph.node:
        raise ExportError(f"{path} has no operators; wanted an ONNX graph, as `sparseinst-export onnx` writes it")
    return model


def _max_batch(model: onnx.ModelProto) -> int:
    texts = [entry.value for entry in model.metadata_props if entry.key == "contract"]
    return Contract.from_json(texts[0], source="the contract in the graph").max_batch_size if texts else MAX_BATCH


def _set_shapes(shapes: Any, tensor: Any, profile: Profile) -> None:
    batch, *rest = tuple(tensor.shape)
    if -1 in rest:
        raise ExportError(f"{tensor.name} is {(batch, *rest)}, -1 being any; wanted a fixed size besides the batch")
    if batch == -1:
        sizes = (profile.smallest, profile.usual, profile.largest)
        shapes.set_shape(tensor.name, *((size, *rest) for size in sizes))


def _logger(trt: Any) -> tuple[list[str], Any]:
    errors: list[str] = []

    class Errors(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors for the report; the rest is TensorRT talking to itself."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Take a line from TensorRT."""
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                errors.extend(filter(None, [_without_driver(message)]))

    return errors, Errors()


def _without_driver(message: str) -> str:
    return " ".join(line.strip() for line in message.splitlines() if NO_DRIVER not in line)
