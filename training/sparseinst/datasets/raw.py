"""A COCO JSON read without trust: entries that can be used are indexed, the others become findings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseinst.data.coco import DataError
from sparseinst.datasets.findings import Findings
from sparseinst_runtime.limits import Limits

_WANTED: dict[str, dict[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"image_id": int, "category_id": int},
}


@dataclass(frozen=True)
class RawDataset:
    """What can be used of a COCO JSON.

    Attributes:
        images: each with id, file_name, height and width; ids occur once.
        categories: names by id.
        by_image: annotations by image id; their image and category are known.
    """

    images: list[dict[str, Any]]
    categories: dict[int, str]
    by_image: dict[int, list[dict[str, Any]]]

    def annotations_of(self, image_id: int) -> list[dict[str, Any]]:
        """The annotations of an image, in the order of the file."""
        return self.by_image.get(image_id, [])

    @staticmethod
    def name(annotation: dict[str, Any]) -> str:
        """What messages call an annotation."""
        return f"annotation {annotation.get('id', 'without id')}"


def read_raw(path: Path, findings: Findings) -> RawDataset:
    """Read and index a COCO JSON.

    Raises:
        DataError: it cannot be read, or is no COCO JSON at all.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read annotations {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); wanted COCO annotations") from error
    for key in _WANTED:
        if not isinstance(raw, dict) or not isinstance(raw.get(key), list):
            raise DataError(f"{path} has no list '{key}'; wanted COCO JSON with {', '.join(_WANTED)}")
    rows = {key: [row for row in raw[key] if _complete(row, key, findings)] for key in _WANTED}
    images = _once(rows["images"], "image", findings)
    categories = {row["id"]: row["name"] for row in _once(rows["categories"], "category", findings)}
    files: set[str] = set()
    for image in images:
        if image["file_name"] in files:
            findings.add("repeated file name", f"image {image['id']}: {image['file_name']}")
        files.add(image["file_name"])
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    _once([row for row in rows["annotations"] if "id" in row], "annotation", findings)
    for row in rows["annotations"]:
        if row["image_id"] not in by_image:
            findings.add("unknown image", f"{RawDataset.name(row)} refers to image {row['image_id']}")
        elif row["category_id"] not in categories:
            findings.add("unknown class", f"{RawDataset.name(row)} refers to category {row['category_id']}")
        else:
            by_image[row["image_id"]].append(row)
    return RawDataset(images, categories, by_image)


def _complete(row: object, key: str, findings: Findings) -> bool:
    wanted = _WANTED[key]
    entry: dict[str, Any] = row if isinstance(row, dict) else {}
    good = all(type(entry.get(field)) is kind for field, kind in wanted.items())
    if good and key == "images":  # a size that no picture may have would only cost memory
        height, width = entry["height"], entry["width"]
        good = min(height, width) > 0 and height * width <= Limits().max_pixels and "\0" not in entry["file_name"]
    if not good:
        fields = ", ".join(f"{field} ({kind.__name__})" for field, kind in wanted.items())
        size = f", of 1 to {Limits().max_pixels:,} pixels" if key == "images" else ""
        findings.add("broken entry", f"'{key}' holds {str(row)[:60]}; wanted {fields}{size}")
    return good


def _once(rows: list[dict[str, Any]], what: str, findings: Findings) -> list[dict[str, Any]]:
    """Rows whose id did not occur before."""
    first: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if first.setdefault(str(row["id"]), row) is not row:
            findings.add("repeated id", f"{what} {row['id']}")
    return list(first.values())
