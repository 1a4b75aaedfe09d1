"""Whether TensorRT takes a graph, asked of TensorRT-RTX's parser and compiler, which need no GPU.

It proves that operators, shapes and types are taken for every batch size of a profile. It proves no result and no
speed: nothing runs, and the engine is another product's than the plan that Triton serves.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparseinst_export.tensorrt_network import Profile, add_profile, load, log_of, parse, precisions
from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from pathlib import Path

PROVES = (
    "TensorRT-RTX's parser and compiler were asked, on the CPU: operators, shapes and types, not results or speed. "
    "Nothing ran, and these engines are not what Triton serves: that is a plan of TensorRT itself, built on the GPU "
    "that serves it. Not verified on a GPU."
)


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
    model = load(path)
    profile = Profile.of(model, smallest, usual, largest)
    log, logger = log_of(trt)
    start = time.perf_counter()
    builder = trt.Builder(logger)
    parsed = parse(trt, builder, logger, model, path)
    refusals, engine = parsed.refusals, None
    if not refusals:
        config = builder.create_builder_config()
        add_profile(builder, config, parsed.network, profile)
        engine = builder.build_serialized_network(parsed.network, config)
        if engine is None:
            found = [f"the compiler gave no engine: {error}" for error in log.errors] or ["no engine and no reason"]
            refusals = tuple(dict.fromkeys(found))
    return Check(
        precisions=precisions(model),
        nodes=len(model.graph.node),
        profile=profile,
        parsed=not parsed.refusals,
        engine_bytes=None if engine is None else int(engine.nbytes),
        seconds=time.perf_counter() - start,
        refusals=refusals,
    )


def version() -> str:
    """The version of TensorRT-RTX; ExportError where it is not installed."""
    return str(_library().__version__)


def _library() -> Any:
    try:
        import tensorrt_rtx  # noqa: PLC0415, on Linux x86_64 only
    except ImportError as error:
        raise ExportError(
            f"tensorrt-rtx cannot be imported ({error}); pip install 'sparseinst[export]' brings it on Linux x86_64, "
            f"this is {platform.system()} {platform.machine()}"
        ) from error
    return tensorrt_rtx
