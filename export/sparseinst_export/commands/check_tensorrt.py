"""`sparseinst-export check-tensorrt`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst_export.commands import say
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from sparseinst_export.tensorrt_check import Check

DESCRIPTION = """\
Ask TensorRT's family whether it takes graphs: parse and compile them with TensorRT-RTX, which needs no GPU.

It proves that operators, shapes and types are taken, strongly typed and for every batch of the profile. It proves no
results and no speed: nothing runs, and the engine is not what Triton serves. That is a plan of TensorRT itself, built
on the GPU that serves it (not verified on a GPU). Exit code 1 when a graph is refused. Needs the extra `export`.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    check = commands.add_parser(
        "check-tensorrt",
        help="whether TensorRT's parser and compiler take graphs, without a GPU",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("graphs", type=Path, nargs="+", metavar="M.onnx", help="ONNX files")
    check.add_argument("--batch-min", type=int, default=1, metavar="B", help="smallest batch (%(default)s)")
    check.add_argument("--batch-opt", type=int, metavar="B", help="batch to make the engine for (4)")
    check.add_argument("--batch-max", type=int, metavar="B", help="largest batch (that of the graph's contract, or 8)")
    check.add_argument("--json", type=Path, metavar="F", help="write the figures there as well")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check graph by graph; 1 when one is refused."""
    from sparseinst_export.tensorrt_check import PROVES, check_tensorrt, version

    checks: dict[str, Check] = {}
    for graph in options.graphs:
        checks[str(graph)] = check = check_tensorrt(graph, options.batch_min, options.batch_opt, options.batch_max)
        say(describe(graph, check))
    say(PROVES)
    if options.json is not None:
        rows = [{"graph": graph, "taken": check.taken} | asdict(check) for graph, check in checks.items()]
        atomic_write(
            options.json, json.dumps({"tensorrt_rtx": version(), "proves": PROVES, "graphs": rows}, indent=2) + "\n"
        )
    return 0 if all(check.taken for check in checks.values()) else 1


def describe(graph: Path, check: Check) -> str:
    """A few lines about one graph."""
    found = ", ".join(f"{name} ({count})" for name, count in check.precisions.items()) or "none"
    batches = f"{check.profile.smallest}, {check.profile.usual}, {check.profile.largest}"
    lines = [
        f"{graph}: {'taken' if check.taken else 'refused'}",
        f"  {check.nodes} nodes; precision of convolutions and matrix products: {found}; "
        f"smallest, usual, largest batch: {batches}",
    ]
    if check.engine_bytes is not None:
        lines.append(f"  parsed and built in {check.seconds:.1f} s: an engine of {check.engine_bytes / 1e6:.1f} MB")
    else:
        lines.append(f"  {'parsed, but not built' if check.parsed else 'not parsed'}:")
    return "\n".join([*lines, *(f"    {refusal}" for refusal in check.refusals)])
