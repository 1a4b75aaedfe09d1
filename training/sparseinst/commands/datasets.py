"""`sparseinst convert-dataset` and `sparseinst check-dataset`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")
_SHOWN_FAULTS = 5


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register both commands; each carries its function as `run`, which returns the exit code."""
    convert_ = commands.add_parser(
        "convert-dataset", help="other annotation formats to COCO JSON", description="Annotations to COCO JSON."
    )
    convert_.add_argument("source", type=Path, metavar="SRC", help="folder of the annotations")
    convert_.add_argument(
        "--from", dest="kind", metavar="{yolo-seg,labelme,voc-masks,mask-pngs}", required=True, help="what SRC holds"
    )
    convert_.add_argument("--out", type=Path, required=True, help="COCO JSON to write")
    convert_.add_argument("--images", type=Path, help="folder of the pictures (default: where the format has them)")
    convert_.add_argument("--classes", type=Path, help="class names: a text file with one a line, or a YOLO data.yaml")
    convert_.add_argument("--skip-broken", action="store_true", help="leave broken entries out in place of stopping")
    convert_.set_defaults(run=run_convert)

    check_ = commands.add_parser(
        "check-dataset",
        help="what is wrong with a COCO dataset",
        description="Everything that is wrong with a COCO dataset. Exit code 1 when errors are found; warnings are 0.",
    )
    check_.add_argument("--annotations", type=Path, required=True, help="COCO JSON")
    check_.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    check_.add_argument("--instances", type=int, default=100, help="queries N of the network (default: 100)")
    check_.add_argument("--sheet", type=Path, help="contact sheet to draw: JPEG, PNG or WEBP")
    check_.add_argument("--json", type=Path, help="write the report here too")
    check_.set_defaults(run=run_check)


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert and write; 0.

    Raises:
        DataError: see `convert`; nothing is written then.
        OSError: the file cannot be written.
    """
    from rich.console import Console

    from sparseinst.datasets.convert import convert
    from sparseinst.datasets.findings import class_table
    from sparseinst_runtime.files import atomic_write

    _check_folders(arguments.out)
    done = convert(
        arguments.kind,
        arguments.source,
        arguments.images,
        arguments.classes,
        skip_broken=arguments.skip_broken,
        track=_bar("reading"),
    )
    atomic_write(arguments.out, json.dumps(done.dataset, ensure_ascii=False, separators=(",", ":")))
    console = Console()
    console.print(class_table(done.instances_of_class))
    if done.faults:
        console.print(f"{len(done.faults)} broken entries left out, first:", style="yellow")
        for fault in done.faults[:_SHOWN_FAULTS]:
            console.print(f"  {fault}", markup=False, soft_wrap=True)
    console.print(
        f"{arguments.out}: {len(done.dataset['images'])} pictures, {len(done.dataset['annotations'])} instances; "
        f"use it with --images {done.images}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Check, print and write the report; 0 when there is no error in the data set, else 1.

    Raises:
        DataError: see `check`.
        OSError: a file cannot be written.
    """
    import cv2
    from rich.console import Console

    from sparseinst.datasets.check import check
    from sparseinst.datasets.sheet import contact_sheet
    from sparseinst_runtime.files import atomic_write

    if arguments.instances < 1:
        raise ValueError(f"--instances is {arguments.instances}; wanted the network's queries, at least 1")
    if arguments.sheet and arguments.sheet.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"}:
        raise ValueError(f"--sheet is {arguments.sheet}; wanted a name that ends in .jpg, .png or .webp")
    _check_folders(arguments.sheet, arguments.json)
    report = check(arguments.annotations, arguments.images, arguments.instances, track=_bar("checking"))
    console = Console()
    console.print(report.render())
    if arguments.json:
        atomic_write(arguments.json, report.to_json())
    if arguments.sheet:
        sheet = contact_sheet(arguments.annotations, arguments.images)
        _, encoded = cv2.imencode(arguments.sheet.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        atomic_write(arguments.sheet, encoded.tobytes())
        console.print(f"contact sheet: {arguments.sheet}", markup=False, soft_wrap=True)
    return 0 if report.clean else 1


def _check_folders(*outputs: Path | None) -> None:
    """Before minutes of work, not after."""
    for path in outputs:
        if path and not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: {path.parent} is no folder; make it first")


def _bar(words: str) -> Callable[[list[_T]], Iterable[_T]]:
    """Shows progress on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)

    def tracked(items: list[_T]) -> Iterable[_T]:
        return track(items, words, console=console, transient=True, disable=not console.is_terminal)

    return tracked
