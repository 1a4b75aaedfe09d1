"""`sparseinst-client image`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from rich.markup import escape
from rich.table import Table

from sparseinst_client.commands.arguments import (
    add_command,
    add_selection,
    check_outputs,
    connect,
    console,
    path_with,
    say,
)
from sparseinst_client.errors import BadRequest
from sparseinst_runtime.decode import decode
from sparseinst_runtime.files import atomic_write
from sparseinst_runtime.instances import Instances

OVERLAY_FORMATS = (".png", ".jpg", ".jpeg", ".webp")
EXAMPLES = """\
  sparseinst-client image zoo.jpg
      a table of what is in the picture
  sparseinst-client image zoo.jpg --out overlay.png --json results.json
      also paint the masks, and write them as COCO results (pycocotools' loadRes reads them)
  sparseinst-client image zoo.jpg --labelme zoo.json
      a file that LabelMe opens, to correct by hand
  sparseinst-client image zoo.jpg --score-threshold 0.5 --max-instances 10
      only what the model is sure of, the ten best
"""
DESCRIPTION = "Segment one picture: prints a table of its instances, writes an overlay and results if asked to."


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    image = add_command(commands, "image", "segment one picture", DESCRIPTION, EXAMPLES)
    overlay_path = partial(path_with, OVERLAY_FORMATS)
    image.add_argument("picture", type=Path, metavar="PICTURE", help="a JPEG, PNG or WebP file")
    image.add_argument("--out", type=overlay_path, metavar="FILE", help="write the picture with masks and labels")
    image.add_argument("--json", type=Path, metavar="FILE", help="write COCO results: a list of masks, boxes, scores")
    image.add_argument("--image-id", type=int, default=1, metavar="ID", help="image_id in the results (%(default)s)")
    image.add_argument("--labelme", type=Path, metavar="FILE", help="write LabelMe's JSON, beside the picture at best")
    image.add_argument("--yolo", type=Path, metavar="FILE", help="write a YOLO segmentation label file")
    add_selection(image)
    image.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table and write what was asked for."""
    data = options.picture.read_bytes()
    check_outputs(options.out, options.json, options.labelme, options.yolo)
    with connect(options) as client:
        try:
            found = client.segment(data, score_threshold=options.score_threshold, max_instances=options.max_instances)
        except BadRequest as error:
            raise BadRequest(f"{options.picture}: {error}") from error
        contract = client.contract()
    console().print(_table(options.picture.name, found, contract.classes))
    if options.out:
        say(f"overlay: {atomic_write(options.out, _overlay(data, found, contract.classes, options.out.suffix))}")
    texts = {
        "json": lambda: json.dumps(found.to_coco(options.image_id, contract.category_ids), indent=1) + "\n",
        "labelme": lambda: json.dumps(found.to_labelme(options.picture.name, contract.classes), indent=1) + "\n",
        "yolo": found.to_yolo,
    }
    for name, text in texts.items():
        if path := getattr(options, name):
            say(f"{'results' if name == 'json' else name}: {atomic_write(path, text())}")
    return 0


def _overlay(data: bytes, found: Instances, classes: Sequence[str], suffix: str) -> bytes:
    from sparseinst_client.draw import overlay

    painted = cv2.cvtColor(overlay(decode(data), found, classes), cv2.COLOR_RGB2BGR)
    written, encoded = cv2.imencode(suffix.lower(), painted)
    if not written:
        raise ValueError(f"the overlay cannot be encoded as {suffix}; use another of {', '.join(OVERLAY_FORMATS)}")
    return encoded.tobytes()


def _table(title: str, found: Instances, classes: Sequence[str]) -> Table:
    height, width = found.image_size
    noun = "instance" if len(found) == 1 else "instances"
    heading = f"{title}, {width} x {height} pixels: {len(found)} {noun}"
    table = Table(title=escape(heading), title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("class")
    for column in ("score", "x1", "y1", "x2", "y2", "area (px)"):
        table.add_column(column, justify="right")
    for index, (label, area) in enumerate(zip(found.labels.tolist(), found.areas.tolist(), strict=True)):
        corners = [f"{value:.0f}" for value in found.boxes[index]]
        table.add_row(str(index + 1), escape(classes[label]), f"{found.scores[index]:.2f}", *corners, f"{area}")
    return table
