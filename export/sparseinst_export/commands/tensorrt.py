"""`sparseinst-export tensorrt`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst_export.commands import say

if TYPE_CHECKING:
    from sparseinst_export.plan_report import PlanReport

INTERRUPTED = 130  # what a shell gives for Ctrl-C
DESCRIPTION = """\
Build a TensorRT plan from an exported graph, on the GPU that serves it (not verified on a GPU).

For TensorRT 10 and 11, strongly typed: the plan computes in what the graph says, so give it the fp16 graph for fp16 and
the int8 graph for int8. A plan runs on the TensorRT version that built it: run this inside the image that serves, or
with the package tensorrt in the server's version. The report (model.plan.json) and contract.json are written beside
the plan. Ctrl-C ends the build at TensorRT's next step, and nothing is written. Needs the packages tensorrt, onnx and
rich, and a GPU; not torch. deploy/build_engine/build_plan.py calls this inside Triton's image.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    plan = commands.add_parser(
        "tensorrt",
        help="a graph to a TensorRT plan, on the GPU that serves it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    plan.add_argument("--out", type=Path, required=True, metavar="M.plan", help="the plan to write")
    plan.add_argument("--batch-min", type=int, default=1, metavar="B", help="smallest batch (%(default)s)")
    plan.add_argument("--batch-opt", type=int, metavar="B", help="batch to choose kernels for (4)")
    plan.add_argument("--batch-max", type=int, metavar="B", help="largest batch (that of the contract)")
    plan.add_argument("--timing-cache", type=Path, metavar="F", help="times of kernels, read if there, and written")
    plan.add_argument(
        "--hardware-compatibility",
        choices=("none", "ampere+", "same-compute-capability"),
        default="none",
        help="other GPUs that must be able to run it, at some cost in speed (%(default)s)",
    )
    plan.add_argument(
        "--version-compatible",
        action="store_true",
        help="newer TensorRT runs it, too; Triton then needs --backend-config=tensorrt,version-compatible=true",
    )
    plan.add_argument("--workspace", type=int, metavar="MIB", help="most scratch memory in MiB (what the GPU has)")
    plan.add_argument(
        "--optimisation-level", type=int, default=3, metavar="L", help="0, quickly built, to 5, quickly run (3)"
    )
    plan.add_argument("--no-tf32", action="store_true", help="no TF32 for float32 products")
    plan.add_argument(
        "--server-version",
        metavar="V",
        help="TensorRT of the server, as in 10.3.0; refuse to build with another (TRT_VERSION of NVIDIA's images)",
    )
    plan.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Build the plan and say what is in it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from sparseinst_export.gpu import current_gpu
    from sparseinst_export.tensorrt_build import Options, build_plan
    from sparseinst_export.tensorrt_progress import BuildInterruptedError
    from sparseinst_export.tensorrt_version import tensorrt_library

    wanted = Options(
        smallest=options.batch_min,
        usual=options.batch_opt,
        largest=options.batch_max,
        hardware=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        workspace_mib=options.workspace,
        optimisation_level=options.optimisation_level,
        tf32=not options.no_tf32,
        timing_cache=options.timing_cache,
        server=options.server_version,
    )
    library, gpu = tensorrt_library(), current_gpu()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            report = build_plan(library, gpu, options.onnx, options.out, wanted, progress=progress)
    except BuildInterruptedError as error:
        sys.stderr.write(f"sparseinst-export: {error}\n")
        return INTERRUPTED
    say(describe(options.out, report))
    return 0


def describe(plan: Path, report: PlanReport) -> str:
    """A few lines about a plan."""
    found = ", ".join(f"{name} ({count})" for name, count in report.precisions.items()) or "none"
    batches = f"{report.profile.smallest}, {report.profile.usual}, {report.profile.largest}"
    gpu = "no GPU" if report.gpu is None else f"{report.gpu.name} (compute capability {report.gpu.compute_capability})"
    memory = "" if report.device_memory is None else f", {report.device_memory / 1e6:.1f} MB of memory for each context"
    lines = [
        f"{plan}: {report.plan_bytes / 1e6:.1f} MB, {len(report.layers)} layers{memory}; {report.build_seconds:.1f} s",
        f"  TensorRT {report.tensorrt} on {gpu}; hardware compatibility: {report.hardware_compatibility}",
        f"  precision of convolutions and matrix products: {found}; smallest, usual, largest batch: {batches}",
    ]
    return "\n".join([*lines, *(f"  {note}" for note in report.notes)])
