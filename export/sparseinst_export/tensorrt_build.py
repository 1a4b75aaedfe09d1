"""An ONNX graph to a TensorRT plan, on the GPU that serves it: one builder for TensorRT 10 and 11.

The network is strongly typed: precision is what the graph says. Not verified on a GPU; the tests run these functions
with TensorRT-RTX, which has the same Python API and builds without a GPU.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparseinst_export.plan_report import HARDWARE, NONE, PlanReport, layers_in, report_path
from sparseinst_export.tensorrt_network import (
    PRODUCTS,
    Log,
    Profile,
    add_profile,
    contract_of,
    load,
    log_of,
    metadata,
    parse,
    precisions,
)
from sparseinst_export.tensorrt_progress import build_serialized
from sparseinst_export.tensorrt_version import runs_on, server_version
from sparseinst_export.verify import ExportError
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from sparseinst_export.gpu import Gpu
    from sparseinst_export.plan_report import Layer

MEBIBYTE = 1 << 20
OPTIMISATION_LEVELS = range(6)  # TensorRT's; 3 is its default
ABOUT_CACHE = re.compile("timing cache", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        smallest: smallest batch of the plan.
        usual: batch that kernels are chosen for; 4 by default, within the other two.
        largest: largest batch; that of the graph's contract by default.
        hardware: key of `plan_report.HARDWARE`: which other GPUs must be able to run it.
        version_compatible: newer TensorRT versions must be able to run it; Triton then needs
            `--backend-config=tensorrt,version-compatible=true`.
        workspace_mib: most scratch memory a kernel may use, in MiB; None is all that the GPU has.
        optimisation_level: 0 (fast to build) to 5 (fast to run).
        tf32: float32 products may be rounded to TF32, on GPUs that have it.
        timing_cache: file with the times of kernels; read if it is there, and written.
        server: version of the TensorRT that will serve; by default that of the image this runs in.

    Raises:
        ExportError: a value out of range.
    """

    smallest: int = 1
    usual: int | None = None
    largest: int | None = None
    hardware: str = NONE
    version_compatible: bool = False
    workspace_mib: int | None = None
    optimisation_level: int = 3
    tf32: bool = True
    timing_cache: Path | None = None
    server: str | None = None

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse later, or silently change."""
        if self.hardware not in HARDWARE:
            raise ExportError(f"hardware compatibility is {self.hardware!r}; wanted one of {', '.join(HARDWARE)}")
        if self.optimisation_level not in OPTIMISATION_LEVELS:
            raise ExportError(f"the optimisation level is {self.optimisation_level}; wanted 0 to 5")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ExportError(f"the workspace is {self.workspace_mib} MiB; wanted at least 1")


def build_plan(
    trt: Any,
    gpu: Gpu | None,
    graph: Path,
    out: Path,
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> PlanReport:
    """Build a plan; write it, its report (`model.plan.json`) and contract.json beside it.

    Args:
        trt: the module; `tensorrt_version.tensorrt_library()`.
        gpu: what it is built on; `gpu.current_gpu()`. With None the plan is not opened again, so that the report knows
            neither its layers nor its memory.
        graph: ONNX file of ours, whose contract it carries or has beside it.
        out: the plan, in the version folder that Triton reads or anywhere.
        options: see there.
        progress: bars to show TensorRT's phases in.

    Returns:
        The report that was written.

    Raises:
        ExportError: TensorRT refuses the graph or gives no plan, or its version is not the server's. Nothing but the
            timing cache is written.
        BuildInterruptedError: Ctrl-C came.
        OSError: a file cannot be read or written.
    """
    options = options or Options()
    if out.suffix != ".plan":
        raise ExportError(f"out is {out}; wanted a file name that ends in .plan")
    start = time.perf_counter()
    version = str(trt.__version__)
    notes = _check_server(version, options)
    model = load(graph)
    contract = contract_of(model) or Contract.load(graph.with_name("contract.json"))
    largest = options.largest
    if largest is None and contract_of(model) is None:
        largest = contract.max_batch_size
    profile = Profile.of(model, options.smallest, options.usual, largest)
    if profile.largest < contract.max_batch_size:
        notes.append(
            f"the plan takes up to {profile.largest} pictures, its contract promises {contract.max_batch_size}: Triton "
            "loads it only with max_batch_size lowered to that"
        )
    log, logger = log_of(trt)
    builder = trt.Builder(logger)
    parsed = parse(trt, builder, logger, model, graph)
    if parsed.refusals:
        product = PRODUCTS.get(trt.__name__, trt.__name__)
        raise ExportError(f"{product} {version} refuses {graph}: {'; '.join(parsed.refusals)}")
    config = builder.create_builder_config()
    add_profile(builder, config, parsed.network, profile)
    configure(trt, config, options)
    notes += _open_cache(config, options.timing_cache, log)
    memory = build_serialized(trt, builder, parsed.network, config, progress)
    if memory is None:
        raise ExportError(f"TensorRT {version} gave no plan: {'; '.join(dict.fromkeys(log.errors)) or 'no reason'}")
    if options.timing_cache is not None:
        _write_cache(config, options.timing_cache)
    plan = bytes(memory)
    layers: tuple[Layer, ...] = ()
    device_memory = None
    if gpu is not None:
        layers, device_memory = _inspect(trt, logger, plan, options.version_compatible, log)
    report = PlanReport(
        tensorrt=version,
        gpu=gpu,
        precision=metadata(model).get("precision"),
        precisions=precisions(model),
        profile=profile,
        hardware_compatibility=options.hardware,
        version_compatible=options.version_compatible,
        tf32=options.tf32,
        optimisation_level=options.optimisation_level,
        workspace_mib=options.workspace_mib,
        graph_sha256=hashlib.sha256(graph.read_bytes()).hexdigest(),
        weights_sha256=metadata(model).get("weights_sha256"),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        device_memory=device_memory,
        build_seconds=round(time.perf_counter() - start, 3),
        notes=tuple(notes),
        layers=layers,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, plan)
    atomic_write(report_path(out), report.to_json())
    atomic_write(out.with_name("contract.json"), contract.to_json())
    return report


def _check_server(version: str, options: Options) -> list[str]:
    server = server_version(options.server)
    if server is None:
        return ["which TensorRT will serve is not known here: compare it with --server-version, or build in its image"]
    if not runs_on(version, server.version, options.version_compatible):
        newer = " or older" if options.version_compatible else ""
        raise ExportError(
            f"the TensorRT here is {version}, that of the server {server.version} ({server.source}): it would refuse "
            f"the plan; build with {server.version}{newer}, inside the image that serves"
        )
    return []


def configure(trt: Any, config: Any, options: Options) -> None:
    """Set an `IBuilderConfig` as the options say; profile and timing cache apart.

    Raises:
        ExportError: this version does not know the hardware compatibility.
    """
    if options.hardware != NONE:
        level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware], None)
        if level is None:
            raise ExportError(f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware}")
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MEBIBYTE)
    config.builder_optimization_level = options.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the report has names of layers only


def _open_cache(config: Any, path: Path | None, log: Log) -> list[str]:
    """Give the builder the times of earlier builds; a sentence where they cannot be used."""
    if path is None:
        return []
    held = path.read_bytes() if path.is_file() else b""
    warnings, errors = len(log.warnings), len(log.errors)
    # A damaged file gives no cache, or an empty one and a line in the log; another version's or GPU's is not accepted.
    cache = config.create_timing_cache(held)
    complaints = [line for line in log.warnings[warnings:] + log.errors[errors:] if ABOUT_CACHE.search(line)]
    if cache is not None and not complaints and config.set_timing_cache(cache, ignore_mismatch=False):
        return []
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    reason = f" ({complaints[-1].strip()})" if complaints else ""
    return [f"TensorRT does not take the timing cache {path}{reason}; kernels were timed anew, and it is replaced"]


def _write_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, bytes(cache.serialize()))


def _inspect(
    trt: Any, logger: Any, plan: bytes, version_compatible: bool, log: Log
) -> tuple[tuple[Layer, ...], int | None]:
    runtime = trt.Runtime(logger)
    if version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan brings a part of TensorRT with it, as code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"TensorRT built a plan and does not load it: {'; '.join(log.errors) or 'no reason'}")
    inspector = engine.create_engine_inspector()
    layers = layers_in(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    memory = getattr(engine, "device_memory_size_v2", None)  # from 10.1 on
    return layers, None if memory is None else int(memory)
