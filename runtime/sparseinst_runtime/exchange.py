"""Instances in the words of other tools: LabelMe, YOLO, supervision, FiftyOne. `Instances` has them as methods.

The last two need their package, which is imported when they are called and is no dependency of this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseinst_runtime.outlines import bridged

if TYPE_CHECKING:
    from sparseinst_runtime.instances import Instances

TOLERANCE = 0.5  # pixels: what people who edit polygons do not miss, for a tenth of the corners
_LABELME = "5.5.0"  # the version whose fields these are


def to_labelme(instances: Instances, picture: str, classes: Sequence[str], tolerance: float) -> dict[str, Any]:
    """See `Instances.to_labelme`."""
    check_classes(instances, classes)
    height, width = instances.image_size
    shapes = []
    for index, label in enumerate(instances.labels.tolist()):
        parts = instances.polygons(index, tolerance)
        shapes += [
            {
                "label": classes[label],
                "points": part.tolist(),
                "group_id": index if len(parts) > 1 else None,
                "description": f"{instances.scores[index]:.3f}",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for part in parts
        ]
    return {
        "version": _LABELME,
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePath(picture).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def to_yolo(instances: Instances, tolerance: float) -> str:
    """See `Instances.to_yolo`."""
    height, width = instances.image_size
    lines = []
    for index, label in enumerate(instances.labels.tolist()):
        parts = instances.polygons(index, tolerance)
        if not parts:
            continue
        whole = bridged(parts[0], parts[1:])
        corners = " ".join(f"{value:.6f}" for value in (whole / np.array([width, height], np.float32)).ravel().tolist())
        lines.append(f"{label} {corners}\n")
    return "".join(lines)


def to_supervision(instances: Instances, classes: Sequence[str] | None) -> Any:  # a class of an optional package
    """See `Instances.to_supervision`."""
    supervision = needed("supervision", "to_supervision()")
    data = {}
    if classes is not None:
        check_classes(instances, classes)
        data = {"class_name": np.array([classes[label] for label in instances.labels.tolist()], dtype=np.str_)}
    return supervision.Detections(
        xyxy=instances.boxes.copy(),
        mask=instances.masks(),
        confidence=instances.scores.copy(),
        class_id=instances.labels.astype(np.int64),
        data=data,
    )


def to_fiftyone(instances: Instances, classes: Sequence[str]) -> Any:  # a class of an optional package
    """See `Instances.to_fiftyone`."""
    fiftyone = needed("fiftyone", "to_fiftyone()")
    check_classes(instances, classes)
    height, width = instances.image_size
    detections = []
    for index, label in enumerate(instances.labels.tolist()):
        x1, y1, x2, y2 = instances.boxes[index].astype(int).tolist()
        detections.append(
            fiftyone.Detection(
                label=classes[label],
                confidence=float(instances.scores[index]),
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                mask=instances.mask(index)[y1:y2, x1:x2].copy(),
            )
        )
    return fiftyone.Detections(detections=detections)


def check_classes(instances: Instances, classes: Sequence[str]) -> None:
    """Raise ValueError where a label has no class name."""
    worst = int(instances.labels.max(initial=-1))
    if worst >= len(classes):
        raise ValueError(
            f"label {worst} has no name among {len(classes)} classes; wanted those of the model's contract"
        )


def needed(package: str, what: str, install: str = "") -> Any:  # a module
    """An optional package.

    Args:
        package: its name.
        what: what needs it, for the message.
        install: what brings it, where that is more than `pip install` and its name.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        message = f"{what} needs the package {package}, which is not installed: {install or f'pip install {package}'}"
        raise ModuleNotFoundError(message, name=package) from error
