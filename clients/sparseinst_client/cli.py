"""`sparseinst-client`: pictures through a server, with a table, an overlay, COCO results and their mask AP.

Exit status: 0 done, 1 something failed and one sentence on stderr says what, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from sparseinst_client.client import Client
from sparseinst_client.draw import overlay
from sparseinst_client.errors import SparseInstError
from sparseinst_client.evaluate import evaluate
from sparseinst_runtime.coco import ground_truth, picture_files, read_annotations
from sparseinst_runtime.decode import decode
from sparseinst_runtime.files import atomic_write
from sparseinst_runtime.instances import Instances

DEFAULT_URL = "grpc://127.0.0.1:8001"
OVERLAY_FORMATS = (".png", ".jpg", ".jpeg", ".webp")

_EXAMPLES = f"""\
examples:
  sparseinst-client image zoo.jpg
      a table of what is in the picture
  sparseinst-client image zoo.jpg --out overlay.png --json results.json
      also paint the masks, and write them as COCO results (pycocotools' loadRes reads them)
  sparseinst-client image zoo.jpg --score-threshold 0.5 --max-instances 10
      only what the model is sure of, the ten best
  sparseinst-client evaluate --annotations val.json --images val/ --out results.json
      COCO mask AP of what the server answers
  sparseinst-client health --url http://gpu-box:8000
      does the server answer? sends a real picture through it

The server is --url, else the environment variable SPARSEINST_URL, else {DEFAULT_URL}.
grpc://host:port and http://host:port are understood; Triton listens on 8001 and 8000.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        client = Client(options.url, timeout=options.timeout, model=options.model)
    except ValueError as error:
        parser.error(str(error))
    # Wide, when it is not a terminal: a pipe should not fold paths.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        with client:
            commands = {"image": _image, "evaluate": _evaluate, "health": _health}
            return commands[options.command](client, options, console)
    except OSError as error:
        sys.stderr.write(f"sparseinst-client: {error.filename or 'file'}: {error.strerror or error}\n")
    except (SparseInstError, ValueError) as error:  # wrong pictures and annotations are ValueErrors
        sys.stderr.write(f"sparseinst-client: {error}\n")
    return 1


def _image(client: Client, options: argparse.Namespace, console: Console) -> int:
    data = options.picture.read_bytes()
    instances = client.segment(data, score_threshold=options.score_threshold, max_instances=options.max_instances)
    contract = client.contract()
    console.print(_table(options.picture.name, instances, contract.classes))
    if options.out:
        painted = overlay(decode(data), instances, contract.classes)
        written, encoded = cv2.imencode(options.out.suffix.lower(), cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
        if not written:
            raise OSError(f"the overlay cannot be encoded as {options.out.suffix}; use one of {OVERLAY_FORMATS}")
        console.print(f"overlay: {atomic_write(options.out, encoded.tobytes())}", markup=False, soft_wrap=True)
    if options.json:
        results = json.dumps(instances.to_coco(options.image_id, contract.category_ids), indent=1) + "\n"
        console.print(f"results: {atomic_write(options.json, results)}", markup=False, soft_wrap=True)
    return 0


def _evaluate(client: Client, options: argparse.Namespace, console: Console) -> int:
    annotations = read_annotations(options.annotations)
    pictures = picture_files(annotations, options.images)
    annotations = ground_truth(annotations, client.contract())
    options.out.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    summary, results = evaluate(client, annotations, track(pictures, "evaluating", console=console))
    atomic_write(options.out, json.dumps(results))
    console.print(summary.text, end="", markup=False, soft_wrap=True)
    console.print(f"{len(results)} instances in {options.out}", markup=False, soft_wrap=True)
    return 0


def _health(client: Client, _options: argparse.Namespace, console: Console) -> int:
    health = client.health()
    claim = "ready" if health.ready else "not ready"
    console.print(f"{health.server}, model {health.model}: says it is {claim}", markup=False, soft_wrap=True)
    if not health.answers:
        sys.stderr.write(f"sparseinst-client: no answer to a picture: {health.problem}\n")
        return 1
    console.print(f"a picture came back in {health.seconds * 1000:.0f} ms", markup=False)
    return 0


def _table(title: str, instances: Instances, classes: Sequence[str]) -> Table:
    height, width = instances.image_size
    noun = "instance" if len(instances) == 1 else "instances"
    heading = f"{title}, {width} x {height} pixels: {len(instances)} {noun}"
    table = Table(title=escape(heading), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("class")
    for column in ("score", "x1", "y1", "x2", "y2", "area (px)"):
        table.add_column(column, justify="right")
    for index, counts in enumerate(instances.rles):
        area = int(coco_mask.area({"size": [height, width], "counts": counts}))
        corners = [f"{value:.0f}" for value in instances.boxes[index]]
        score = f"{instances.scores[index]:.2f}"
        table.add_row(str(index + 1), escape(classes[instances.labels[index]]), score, *corners, f"{area}")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparseinst-client",
        description="Find the instances in pictures with a SparseInst server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{image,evaluate,health}")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("SPARSEINST_URL") or DEFAULT_URL,
        help="the server, grpc://host:port or http://host:port (now: %(default)s)",
    )
    server.add_argument("--timeout", type=_positive, default=30.0, metavar="SECONDS", help="for the whole call (30)")
    server.add_argument("--model", default="sparseinst", help="the model to ask (%(default)s)")

    image = commands.add_parser(
        "image",
        parents=[server],
        help="segment one picture",
        description="Segment one picture: prints a table of its instances, writes an overlay and results if asked to.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    image.add_argument("picture", type=Path, metavar="PICTURE", help="a JPEG, PNG or WebP file")
    image.add_argument("--out", type=_overlay_path, metavar="FILE", help="write the picture with masks and labels")
    image.add_argument("--json", type=Path, metavar="FILE", help="write COCO results: a list of masks, boxes, scores")
    image.add_argument("--image-id", type=int, default=1, metavar="ID", help="image_id in the results (%(default)s)")
    image.add_argument("--score-threshold", type=_fraction, metavar="T", help="drop scores at or below T, 0 to 1")
    image.add_argument("--max-instances", type=_count, metavar="N", help="only the N best")

    evaluation = commands.add_parser(
        "evaluate",
        parents=[server],
        help="COCO mask AP of a dataset, through the server",
        description="Send every picture of a COCO dataset and print the twelve COCO numbers of what comes back.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluation.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    evaluation.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    evaluation.add_argument(
        "--out", type=Path, default=Path("results.json"), metavar="FILE", help="COCO results (%(default)s)"
    )

    commands.add_parser(
        "health",
        parents=[server],
        help="ask whether the server works",
        description="Ask a server how it is and send a small picture through it; exit status 0 when it came back.",
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number of seconds, more than 0")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a number from 0 to 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted at least 1")
    return value


def _overlay_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in OVERLAY_FORMATS:
        raise argparse.ArgumentTypeError(f"{text}: wanted a file name that ends in one of {', '.join(OVERLAY_FORMATS)}")
    return path


if __name__ == "__main__":
    sys.exit(main())
