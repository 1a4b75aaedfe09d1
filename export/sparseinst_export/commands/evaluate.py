"""`sparseinst-export evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sparseinst_export.engines import ENGINES
from sparseinst_runtime.contract import Contract

DESCRIPTION = """\
COCO mask AP of an exported graph: the same letterbox, masks and scoring as `sparseinst evaluate`, another engine.

OpenVINO is the engine that is served on CPUs, here as there in float32. Needs the extra `export`.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="COCO mask AP of an ONNX graph",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    evaluate.add_argument("--contract", type=Path, metavar="C", help="its contract (contract.json beside the graph)")
    evaluate.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    evaluate.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    evaluate.add_argument("--out", type=Path, default=Path("results.json"), help="COCO results (%(default)s)")
    evaluate.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="what runs it (%(default)s)")
    evaluate.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print COCO's summary."""
    from sparseinst.evaluate import evaluate_files
    from sparseinst_export.onnx import load_graph

    contract = Contract.load(options.contract or options.onnx.with_name("contract.json"))
    engine = ENGINES[options.engine](load_graph(options.onnx, contract))
    sys.stdout.write(evaluate_files(engine, contract, options.annotations, options.images, options.out))
    return 0
