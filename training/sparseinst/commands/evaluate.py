"""`sparseinst evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sparseinst.commands.arguments import device


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    evaluate = commands.add_parser("evaluate", help="COCO mask AP of weights")
    evaluate.add_argument("--weights", type=Path, required=True)
    evaluate.add_argument("--annotations", type=Path, required=True, help="COCO JSON with the weights' categories")
    evaluate.add_argument("--images", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, default=Path("results.json"), help="COCO results (default: results.json)")
    evaluate.add_argument("--device")
    evaluate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; prints the twelve numbers and writes the results. Raises what `evaluate_files` raises."""
    from sparseinst.checkpoint import load_model
    from sparseinst.evaluate import evaluate_files, torch_engine

    model, contract = load_model(arguments.weights)
    engine = torch_engine(model, contract, device(arguments.device))
    sys.stdout.write(evaluate_files(engine, contract, arguments.annotations, arguments.images, arguments.out))
    return 0
