"""All pictures of a folder through a server, into a journal that the next run goes on with; COCO from the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparseinst_client.client import Client
from sparseinst_client.errors import BadRequest, SparseInstError
from sparseinst_client.journal import Journal, read_rows
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write
from sparseinst_runtime.instances import Instances

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_PATIENCE = 8  # pictures one after the other that the server may fail on, before it counts as gone


@dataclass
class Outcome:
    """What became of the pictures of a folder.

    Attributes:
        done: segmented in this run.
        skipped: that the journal had already.
        refused: file name and reason of pictures that cannot be segmented, those of earlier runs too; they are in the
            journal and not tried again.
        failed: file name and reason where the server failed; not in the journal, so that the next run tries again.
    """

    done: int = 0
    skipped: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def pictures_of(folder: Path) -> list[str]:
    """Names of all picture files under a folder, relative to it, in order.

    Raises:
        ValueError: it is no folder, or has no pictures.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; wanted a folder of pictures")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    if not names:
        raise ValueError(f"{folder} holds no pictures; wanted files that end in one of {', '.join(SUFFIXES)}")
    return names


def run_settings(contract: Contract, model: str, **options: float | None) -> dict[str, Any]:
    """What a journal's lines are made with: two runs with the same settings may share one."""
    return {
        "model": model,
        "classes": list(contract.classes),
        "category_ids": list(contract.category_ids),
        **options,
    }


def segment_folder(
    client: Client,
    folder: Path,
    names: Sequence[str],
    journal: Journal,
    *,
    in_flight: int,
    score_threshold: float | None = None,
    max_instances: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Segment the pictures that the journal lacks, several at a time, and write a line for each, in order.

    Args:
        client: of the server.
        folder: where the pictures are.
        names: of the pictures, relative to it.
        journal: opened with `run_settings`.
        in_flight: pictures under way at a time.
        score_threshold: see `Client.segment`.
        max_instances: see `Client.segment`.
        progress: told how many pictures more are finished.

    Raises:
        SparseInstError: the server failed on so many pictures one after the other that it is taken to be gone.
        ValueError, OSError: the journal cannot be read or written.
    """
    outcome, had = Outcome(), set()
    for row in journal.rows():
        had.add(row["file_name"])
        if "error" in row:
            outcome.refused.append((row["file_name"], row["error"]))
    left = [name for name in names if name not in had]
    outcome.skipped = len(names) - len(left)
    progress(outcome.skipped)
    category_ids = client.contract().category_ids
    paths = (folder / name for name in left)
    stream = client.stream(
        paths,
        in_flight=in_flight,
        on_error="yield",
        score_threshold=score_threshold,
        max_instances=max_instances,
    )
    in_a_row = 0
    for name, found in zip(left, stream, strict=True):
        if isinstance(found, SparseInstError) and not isinstance(found, BadRequest):
            in_a_row += 1
            outcome.failed.append((name, str(found)))
            if in_a_row >= _PATIENCE or in_a_row == len(left):
                raise found
        else:
            in_a_row = 0
            if isinstance(found, Instances):
                journal.append(picture_row(name, found, client.classes, category_ids))
                outcome.done += 1
            else:
                reason = f"{found.strerror}" if isinstance(found, OSError) else str(found)
                journal.append({"file_name": name, "error": reason})
                outcome.refused.append((name, reason))
        progress(1)
    return outcome


def picture_row(name: str, found: Instances, classes: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
    """A journal's line: the picture and its instances in COCO's terms, the class by name, too."""
    height, width = found.image_size
    rows = found.to_coco(0, category_ids)
    for row, label, area in zip(rows, found.labels.tolist(), found.areas.tolist(), strict=True):
        del row["image_id"]
        row |= {"class": classes[label], "area": area}
    return {"file_name": name, "width": width, "height": height, "instances": rows}


def write_coco(journal: Path, settings: dict[str, Any], out: Path) -> int:
    """A journal as COCO's instances JSON, with a score at each annotation; gives the number of annotations.

    Ids count from 1 in the order of file names; pictures that could not be segmented are left out.
    """
    categories = zip(settings["category_ids"], settings["classes"], strict=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows = (row for row in read_rows(journal) if "error" not in row)
    for image_id, row in enumerate(sorted(rows, key=lambda row: row["file_name"]), start=1):
        images.append({"id": image_id, **{key: row[key] for key in ("file_name", "width", "height")}})
        for instance in row["instances"]:
            annotation = {key: value for key, value in instance.items() if key != "class"}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **annotation})
    dataset = {
        "info": {"description": f"found by sparseinst-client, model {settings['model']}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    atomic_write(out, json.dumps(dataset))
    return len(annotations)
