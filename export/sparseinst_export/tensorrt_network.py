"""An ONNX graph as a network of TensorRT, strongly typed, with its batch sizes; refusals in words.

The one place for it: `tensorrt_check` asks TensorRT-RTX, `tensorrt_build` builds with TensorRT. Both packages have the
same Python API; which one is meant is the argument `trt`, the imported module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from sparseinst_export.verify import ExportError
from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from pathlib import Path

MAX_BATCH = 8  # where neither the caller nor the graph names the largest batch
USUAL_BATCH = 4
COMPUTING = frozenset({"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul"})  # what nearly all time is spent in
NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "FLOAT8E4M3FN": "fp8"}
PRODUCTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}  # by the name of the module
NO_DRIVER = "Cuda Runtime"  # in a line that TensorRT adds to errors on machines without a GPU


@dataclass(frozen=True)
class Profile:
    """Batch sizes that an engine takes (`smallest` to `largest`), and the one it is made for.

    Raises:
        ExportError: they are not in order.
    """

    smallest: int = 1
    usual: int = USUAL_BATCH
    largest: int = MAX_BATCH

    def __post_init__(self) -> None:
        """Refuse what no engine can be built for."""
        if not 1 <= self.smallest <= self.usual <= self.largest:
            got = f"{self.smallest}, {self.usual}, {self.largest}"
            raise ExportError(f"batch sizes are {got}; wanted 1 <= smallest <= usual <= largest")

    @classmethod
    def of(
        cls, model: onnx.ModelProto, smallest: int = 1, usual: int | None = None, largest: int | None = None
    ) -> Profile:
        """What is asked for; by default up to the largest batch of the contract inside the graph, made for 4.

        A graph with a fixed batch takes that one, whatever its contract says.

        Raises:
            ExportError: out of order, or others than a fixed batch were asked for.
        """
        batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value if model.graph.input else 0
        if batch:
            if {usual, largest} - {None, batch} or smallest not in {1, batch}:  # 1 is its default
                raise ExportError(f"the graph takes batches of {batch} only; wanted no other batch sizes")
            return cls(batch, batch, batch)
        if largest is None:
            contract = contract_of(model)
            largest = max(smallest, MAX_BATCH if contract is None else contract.max_batch_size)
        return cls(smallest, max(smallest, min(USUAL_BATCH, largest)) if usual is None else usual, largest)


@dataclass(frozen=True)
class Parsed:
    """What the parser made of a graph.

    Attributes:
        network: `INetworkDefinition`; incomplete where there are refusals.
        parser: `OnnxParser`, which owns the weights that the network points to: keep it as long as the network.
        refusals: why the parser did not take the graph, one sentence each; empty where it did.
    """

    network: Any
    parser: Any
    refusals: tuple[str, ...]


def load(path: Path) -> onnx.ModelProto:
    """Read a graph.

    Raises:
        ExportError: the file is no ONNX graph.
        OSError: it cannot be read.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX graph ({error}); `sparseinst-export onnx` writes one") from error
    if not model.graph.node:
        raise ExportError(f"{path} has no operators; wanted an ONNX graph, as `sparseinst-export onnx` writes it")
    return model


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """What the graph says about itself; see `onnx.describe`."""
    return {entry.key: entry.value for entry in model.metadata_props}


def contract_of(model: onnx.ModelProto) -> Contract | None:
    """The contract that a graph carries; None where it carries none."""
    text = metadata(model).get("contract")
    return None if text is None else Contract.from_json(text, source="the contract in the graph")


def parse(trt: Any, builder: Any, logger: Any, model: onnx.ModelProto, path: Path) -> Parsed:
    """Give a graph to the parser.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        builder: its `Builder`.
        logger: its logger, see `log_of`.
        model: the graph, for the refusals.
        path: its file.
    """
    # Always strongly typed: precision is what the graph says. TensorRT 11 knows nothing else and only keeps the name.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    refusals: tuple[str, ...] = ()
    if not parser.parse(path.read_bytes(), str(path)):
        operators = Counter(node.op_type for node in model.graph.node)
        product = PRODUCTS.get(trt.__name__, trt.__name__)
        found = [explain(parser.get_error(i), operators, product) for i in range(parser.num_errors)]
        refusals = tuple(dict.fromkeys(found)) or (f"{product} does not parse {path} and gives no reason",)
    return Parsed(network, parser, refusals)


def add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> Any:
    """Tell the builder which batches the inputs of a network take.

    Returns:
        The `IOptimizationProfile` that was added.

    Raises:
        ExportError: a dimension besides the batch is dynamic.
    """
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tuple(tensor.shape)
        if -1 in rest:
            raise ExportError(f"{tensor.name} is {(batch, *rest)}, -1 being any; wanted a fixed size besides the batch")
        if batch == -1:
            sizes = (profile.smallest, profile.usual, profile.largest)
            shapes.set_shape(tensor.name, *((size, *rest) for size in sizes))
    config.add_optimization_profile(shapes)
    return shapes


def explain(error: Any, operators: Counter[str], product: str) -> str:
    """A parser error as a sentence: in our words where the cause is known, in the parser's otherwise.

    Args:
        error: `ParserError` of TensorRT or TensorRT-RTX.
        operators: how many of each operator the graph has.
        product: who refuses.
    """
    operator, message = error.node_operator(), without_driver(error.desc())
    count = operators[operator]
    where = f"node {error.node_name() or error.node()} ({operator}{f', one of {count}' if count > 1 else ''})"
    if operator == "Transpose" and "type UInt8" in message:
        return f"{where}: TensorRT has no uint8 transpose; cast first, as in x.float().permute(...)"
    if operator == "DeformConv":
        return (
            f"{where}: needs a plugin for deformable convolution, which {product} has not under this name; "
            "engines that can: ONNX Runtime on the CPU; not OpenVINO"
        )
    code = error.code().name.lower().replace("_", " ")
    return f"{where}: {code}" + ("" if message == "false" else f": {message}")


def precisions(model: onnx.ModelProto) -> dict[str, int]:
    """Convolutions and matrix products of a graph by what they compute in; those behind Q/DQ by the quantised type."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {weight.name: weight.data_type for weight in graph.initializer}
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


@dataclass(frozen=True)
class Log:
    """Warnings and errors of TensorRT, in its own words; what it only tells itself is dropped."""

    warnings: list[str]
    errors: list[str]


def log_of(trt: Any) -> tuple[Log, Any]:
    """A logger for `Builder`, `OnnxParser` and `Runtime`, and where it keeps what it is told."""
    log = Log([], [])
    severities = trt.ILogger.Severity

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined]
        """Hands lines to `log`."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Take a line from TensorRT."""
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                log.errors.extend(filter(None, [without_driver(message)]))
            elif severity == severities.WARNING:
                log.warnings.append(message)

    return log, Kept()


def without_driver(message: str) -> str:
    """One line of a message, without what TensorRT adds on machines that have no GPU."""
    return " ".join(line.strip() for line in message.splitlines() if NO_DRIVER not in line)
