"""The mask of one COCO annotation, or what is wrong with it, in words; it never raises.

Training skips parts of fewer than three points and refuses what cannot be read; a check tells both apart.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sparseinst.data.coco import FAR
from sparseinst.datasets.findings import Findings
from sparseinst_runtime.rle import decode_rle

# One cell of the network's mask grid, which has a quarter of the input's side.
TINY_AREA = 16
_SLACK = 1.0  # pixels that a polygon may stick out; annotation tools round


def rasterise(
    annotation: dict[str, Any], height: int, width: int, name: str, findings: Findings
) -> dict[str, Any] | None:
    """Compressed RLE of the annotation in a picture of height x width pixels; None when nothing of it can be used.

    Args:
        annotation: its `segmentation` is what is read.
        height: rows of the picture.
        width: columns of the picture.
        name: what messages call the annotation.
        findings: takes what is wrong.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        rle = _from_runs(segmentation, height, width, name, findings)
    elif isinstance(segmentation, list) and segmentation:
        rle = _from_polygons(segmentation, height, width, name, findings)
    elif segmentation == []:
        findings.add("empty mask", f"{name} has no polygon")
        return None
    else:
        findings.add("broken entry", f"{name} has no segmentation; wanted polygons or run lengths")
        return None
    if rle is None:
        return None
    area = int(coco_mask.area(rle))
    if area == 0:
        findings.add("empty mask", f"{name} covers no pixel")
        return None
    if area < TINY_AREA:
        findings.add("tiny mask", f"{name} covers {area} pixels")
    return rle


def _from_runs(
    segmentation: dict[str, Any], height: int, width: int, name: str, findings: Findings
) -> dict[str, Any] | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        findings.add("unreadable mask", f"{name} has run lengths of size {size}; wanted [{height}, {width}]")
        return None
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
            findings.add("unreadable mask", f"{name}: its runs do not add up to {height * width} pixels")
            return None
        rle: dict[str, Any] = coco_mask.frPyObjects(segmentation, height, width)
        return rle
    if not isinstance(counts, str) or not counts:
        findings.add("unreadable mask", f"{name}: its counts are no list and no string")
        return None
    rle = {"size": size, "counts": counts.encode()}
    try:
        # Where the runs of a broken RLE end early, pycocotools leaves what happened to be in memory.
        readable = cv2.countNonZero(decode_rle(rle).T) == coco_mask.area(rle)
    except ValueError:
        readable = False
    if not readable:
        findings.add("unreadable mask", f"{name}: its run lengths are cut off or corrupt")
        return None
    return rle


def _from_polygons(
    parts: list[object], height: int, width: int, name: str, findings: Findings
) -> dict[str, Any] | None:
    usable, faults = [], []
    for part in parts:
        fault, polygon = _polygon(part, height, width)
        if polygon is not None:
            usable.append(polygon.tolist())
            if outside := _sticks_out(polygon, height, width):
                findings.add("polygon leaves picture", f"{name} by {outside:.0f} pixels")
        else:
            faults.append(fault)
    if not usable:
        findings.add("broken polygon", f"{name} {faults[0]}")
        return None
    for fault in faults:
        findings.add("broken polygon part", f"{name} {fault}")
    rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(usable, height, width))
    return rle


def _polygon(part: object, height: int, width: int) -> tuple[str, np.ndarray | None]:
    """("", float64 [2 * P]) of a part that can be used, or what is wrong with it."""
    try:
        flat = np.asarray(part, np.float64)
    except (TypeError, ValueError):
        return "holds something else than numbers", None
    if flat.ndim != 1 or flat.size % 2 or not np.isfinite(flat).all():
        return "is no flat list of finite x, y, x, y, ...", None
    if flat.size < 6:
        return f"has {flat.size // 2} points; wanted at least 3", None
    x, y = flat[0::2], flat[1::2]
    if np.abs(flat).max() > FAR:
        fault = f"has a coordinate of {np.abs(flat).max():g} pixels"
    elif x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
        fault = f"lies outside of its picture ({width} x {height})"
    elif abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) < 1e-6:  # twice the area: shoelace formula
        fault = "encloses an area of zero"
    else:
        return "", flat
    return fault, None


def _sticks_out(polygon: np.ndarray, height: int, width: int) -> float:
    """How many pixels a polygon reaches out of its picture; 0 up to the slack."""
    x, y = polygon[0::2], polygon[1::2]
    out = float(max(-x.min(), -y.min(), x.max() - width, y.max() - height))
    return out if out > _SLACK else 0.0
