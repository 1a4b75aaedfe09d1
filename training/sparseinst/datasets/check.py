"""Goes through a COCO data set and says everything that is wrong with it, where training would stop at the first fault.

Every picture is decoded and every mask rasterised, one picture at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparseinst.data.coco import DataError
from sparseinst.datasets.findings import Findings, Report
from sparseinst.datasets.raw import RawDataset, read_raw
from sparseinst.datasets.shapes import rasterise
from sparseinst.datasets.source import SUFFIXES
from sparseinst_runtime.decode import decode
from sparseinst_runtime.limits import PictureError, check_header

DUPLICATE_IOU = 0.95


def check(
    annotations: Path,
    images: Path,
    queries: int = 100,
    *,
    track: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] = iter,
) -> Report:
    """Check a data set.

    Args:
        annotations: COCO instance JSON.
        images: folder that its `file_name`s are relative to.
        queries: instances that the network can find in one picture, N.
        track: wraps the list of images, to show progress.

    Raises:
        DataError: no JSON with the three lists of COCO, or no folder; everything else becomes a finding.
    """
    if not images.is_dir():
        raise DataError(f"{images} is no folder; wanted the one that holds the pictures of {annotations.name}")
    findings = Findings()
    raw = read_raw(annotations, findings)
    _check_categories(raw, findings)
    counts: Counter[int] = Counter()
    crowds = most = 0
    seen: dict[bytes, str] = {}
    for image in track(raw.images):
        _check_picture(image, images, seen, findings)
        instances = []
        for annotation in raw.annotations_of(image["id"]):
            name = f"{raw.name(annotation)} in {image['file_name']}"
            if not isinstance(annotation.get("area"), int | float):
                findings.add("missing area", name)
            if annotation.get("iscrowd", 0):
                crowds += 1
                findings.add("crowd", name)
            rle = rasterise(annotation, image["height"], image["width"], name, findings)
            if rle is not None and not annotation.get("iscrowd", 0):
                instances.append((annotation, rle))
                counts[annotation["category_id"]] += 1
        _find_duplicates(instances, raw, image, findings)
        most = max(most, len(instances))
        if not instances:
            findings.add("picture without instances", image["file_name"])
        if len(instances) > queries:
            findings.add(
                "crowded picture", f"{image['file_name']} has {len(instances)} instances, queries are {queries}"
            )
    _find_unlisted(raw, images, findings)
    by_name: Counter[str] = Counter()
    for category_id, name in raw.categories.items():
        by_name[name] += counts[category_id]
    return Report(
        annotations=annotations.name,
        pictures=len(raw.images),
        instances=sum(counts.values()),
        crowds=crowds,
        queries=queries,
        most_instances=most,
        instances_of_class=dict(by_name),
        findings=findings.sorted(),
    )


def _check_categories(raw: RawDataset, findings: Findings) -> None:
    used = {annotation["category_id"] for image in raw.images for annotation in raw.annotations_of(image["id"])}
    first: dict[str, tuple[int, str]] = {}
    for category_id, name in raw.categories.items():
        if category_id not in used:
            findings.add("unused class", f"{name} (id {category_id})")
        other_id, other = first.setdefault(" ".join(name.split()).casefold(), (category_id, name))
        if other_id != category_id:
            kind = "duplicate class" if other == name else "similar class names"
            findings.add(kind, f"{other!r} (id {other_id}) and {name!r} (id {category_id})")


def _check_picture(image: dict[str, Any], images: Path, seen: dict[bytes, str], findings: Findings) -> None:
    """The file of an image: there, readable to the end, of the size in the JSON, and no copy of another."""
    name = image["file_name"]
    path = images / name
    if not path.is_file():
        findings.add("missing picture", name)
        return
    try:
        data = path.read_bytes()
        height, width = decode(data).shape[:2]
    except (OSError, PictureError) as error:
        findings.add("unreadable picture", f"{name}: {error}")
        return
    if (height, width) != (image["height"], image["width"]):
        header = check_header(data)
        turned = header.orientation >= 5 and (header.width, header.height) == (image["width"], image["height"])
        why = f", turned by EXIF orientation {header.orientation}" if turned else ""
        findings.add(
            "wrong picture size", f"{name} is {width} x {height}{why}; JSON: {image['width']} x {image['height']}"
        )
    other = seen.setdefault(hashlib.blake2b(data, digest_size=16).digest(), name)
    if other != name:
        findings.add("duplicate picture", f"{name} has the bytes of {other}")


def _find_duplicates(
    instances: list[tuple[dict[str, Any], dict[str, Any]]], raw: RawDataset, image: dict[str, Any], findings: Findings
) -> None:
    """Pairs of one class whose masks are nearly the same."""
    for category_id in sorted({annotation["category_id"] for annotation, _ in instances}):
        same = [pair for pair in instances if pair[0]["category_id"] == category_id]
        rles = [rle for _, rle in same]
        overlap = np.triu(coco_mask.iou(rles, rles, [0] * len(rles)), k=1)
        for i, j in np.argwhere(overlap > DUPLICATE_IOU).tolist():
            findings.add(
                "duplicate annotation",
                f"{raw.name(same[i][0])} and {raw.name(same[j][0])} ({raw.categories[category_id]}) in "
                f"{image['file_name']}, IoU {overlap[i, j]:.2f}",
            )


def _find_unlisted(raw: RawDataset, images: Path, findings: Findings) -> None:
    listed = {(images / image["file_name"]).resolve() for image in raw.images}
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.resolve() not in listed:
            findings.add("picture not listed", path.relative_to(images).as_posix())
