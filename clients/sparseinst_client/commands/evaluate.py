"""`sparseinst-client evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.progress import track

from sparseinst_client.commands.arguments import add_command, check_outputs, connect, console, say
from sparseinst_client.evaluate import evaluate
from sparseinst_runtime.coco import ground_truth, picture_files, read_annotations
from sparseinst_runtime.files import atomic_write

EXAMPLES = """\
  sparseinst-client evaluate --annotations val.json --images val/ --out results.json
      COCO mask AP of what the server answers, over gRPC
  sparseinst-client evaluate --annotations val.json --images val/ --url http://gpu-box:8000
      the same over HTTP: the figures should not differ
"""
DESCRIPTION = "Send every picture of a COCO dataset and print the twelve COCO numbers of what comes back."


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    text = "COCO mask AP of a dataset, through the server"
    evaluation = add_command(commands, "evaluate", text, DESCRIPTION, EXAMPLES)
    evaluation.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    evaluation.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    evaluation.add_argument(
        "--out", type=Path, default=Path("results.json"), metavar="FILE", help="COCO results (%(default)s)"
    )
    evaluation.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print COCO's summary."""
    with connect(options) as client:
        annotations = read_annotations(options.annotations)
        pictures = picture_files(annotations, options.images)
        annotations = ground_truth(annotations, client.contract())
        options.out.parent.mkdir(parents=True, exist_ok=True)
        check_outputs(options.out)  # now, not after minutes of work
        shown = track(pictures, "evaluating", console=console(stderr=True))
        summary, results = evaluate(client, annotations, shown)
    atomic_write(options.out, json.dumps(results))
    say(summary.text.rstrip("\n"))
    say(f"{len(results)} instances in {options.out}")
    return 0
