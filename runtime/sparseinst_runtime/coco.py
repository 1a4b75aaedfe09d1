"""COCO's mask AP by pycocotools, as a value: nothing is printed and nothing that was handed in is changed."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass(frozen=True)
class APSummary:
    """COCO's twelve numbers, each in 0..1, or -1 where the ground truth has nothing of the kind.

    `text` holds the same as the twelve lines that pycocotools prints.
    """

    text: str
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def as_dict(self) -> dict[str, float]:
        """The twelve numbers by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "text"}


def mask_ap(
    annotations: dict[str, Any] | str | os.PathLike[str],
    results: list[dict[str, Any]],
    image_ids: Iterable[int] | None = None,
) -> APSummary:
    """Hold instances against ground truth by COCO's rules.

    Args:
        annotations: COCO's instances JSON, read or as a path; segmentations may be polygons or run lengths.
        results: COCO's results format with `segmentation`, as `Instances.to_coco` gives; may be empty.
        image_ids: judge these pictures only; None judges all of the annotations, also those without a result.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, or results or `image_ids` name pictures that it does not know.
    """
    dataset = annotations if isinstance(annotations, dict) else json.loads(Path(annotations).read_text("utf-8"))
    missing = {"images", "annotations", "categories"} - dataset.keys()
    if missing:
        raise ValueError(f"the annotations lack {sorted(missing)}; wanted COCO's instances JSON")
    known = {image["id"] for image in dataset["images"]}
    wanted = known if image_ids is None else set(image_ids)
    strangers = (wanted | {result["image_id"] for result in results}) - known
    if strangers:
        raise ValueError(f"no such pictures in the annotations: ids {sorted(strangers)[:5]}; wrong annotation file?")

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = _index(dataset, dataset["annotations"])
        found = truth.loadRes([dict(result) for result in results]) if results else _index(dataset, [])
        evaluation = COCOeval(truth, found, iouType="segm")
        evaluation.params.imgIds = sorted(wanted)
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(printed.seek(0))  # the progress before; what follows are the twelve lines
        evaluation.summarize()
    return APSummary(printed.getvalue(), *map(float, evaluation.stats))


def _index(dataset: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """A COCO object of copies, since pycocotools writes into annotations; ids from 1, since it reads 0 as no match."""
    coco = COCO()
    copies = [{"iscrowd": 0, **annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]
    coco.dataset = {"info": {}, "licenses": [], **dataset, "annotations": copies}
    coco.createIndex()
    return coco
