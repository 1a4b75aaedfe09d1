"""`sparseinst predict`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sparseinst.commands.arguments import device


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    predict = commands.add_parser("predict", help="segment pictures with weights")
    predict.add_argument("pictures", type=Path, nargs="+")
    predict.add_argument("--weights", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True, help="folder for one COCO results JSON for each picture")
    predict.add_argument("--score-threshold", type=float, help="drop instances at or below (default: the contract's)")
    predict.add_argument("--device")
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment each picture; prints a line and writes a COCO results JSON for each."""
    from sparseinst.predict import Predictor
    from sparseinst_runtime.decode import decode
    from sparseinst_runtime.files import atomic_write
    from sparseinst_runtime.limits import PictureError

    names = [path.stem for path in arguments.pictures]
    if len(set(names)) < len(names):
        raise ValueError(f"two pictures are called {max(names, key=names.count)}; wanted names that differ for --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(arguments.weights, device=device(arguments.device), score_threshold=arguments.score_threshold)
    contract = predictor.contract
    for index, path in enumerate(arguments.pictures):
        try:
            picture = decode(path.read_bytes())
        except PictureError as error:
            raise ValueError(f"{path}: {error}") from error
        instances = predictor(picture)
        out = atomic_write(
            arguments.out / f"{path.stem}.json", json.dumps(instances.to_coco(index, contract.category_ids))
        )
        found = ", ".join(
            f"{contract.classes[i]} {s:.2f}" for i, s in zip(instances.labels, instances.scores, strict=True)
        )
        sys.stdout.write(f"{path}: {found or 'nothing'} -> {out}\n")
    return 0
