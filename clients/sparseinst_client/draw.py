"""Overlays: masks, outlines and labels painted over a picture by `supervision`.

Colours are Okabe and Ito's, which people with any common colour blindness tell apart; each instance takes the next
one, so that neighbours of one class stay distinct. Line width and text grow with the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import supervision as sv

from sparseinst_runtime.exchange import check_classes
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.sketch import PALETTE

_FILL = sv.ColorPalette.from_hex(list(PALETTE))
# What is readable on each of them.
_TEXT = sv.ColorPalette.from_hex(["#000000", "#000000", "#000000", "#000000", "#FFFFFF", "#000000", "#000000"])


def overlay(
    picture: np.ndarray, instances: Instances, classes: Sequence[str], numbers: np.ndarray | None = None
) -> np.ndarray:
    """A copy of the picture with every instance's mask, outline, class name and score.

    Args:
        picture: RGB uint8 [H,W,3], the picture that the instances belong to.
        instances: K instances in this picture's pixels; masks are taken one at a time, never K at once.
        classes: class names by label.
        numbers: int [K] of tracks, written before the names; they choose the colours, so that an instance keeps its own
            in a video. Negative ones are none.

    Returns:
        RGB uint8 [H,W,3]; equal arguments give equal pixels.

    Raises:
        ValueError: the picture's size is not the instances', or a label has no class name.
    """
    height, width = picture.shape[:2]
    if (height, width) != tuple(instances.image_size):
        wanted = "{}x{}".format(*instances.image_size)
        raise ValueError(f"the picture has {height}x{width} pixels; wanted {wanted}, the size the instances are in")
    check_classes(instances, classes)
    places = np.arange(len(instances))
    tracks = np.full(len(instances), -1) if numbers is None else numbers
    colours = np.where(tracks < 0, places, tracks)

    scene: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    boxes, labels = instances.boxes.astype(np.float64), instances.labels.astype(int)
    line = sv.calculate_optimal_line_thickness((width, height))
    rim = sv.PolygonAnnotator(sv.Color.WHITE, thickness=line + 2)  # keeps outlines visible on any ground
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in np.argsort(-areas, kind="stable").tolist():  # small ones last, so that large ones do not hide them
        colour = _FILL.by_idx(int(colours[index]))
        one = sv.Detections(xyxy=boxes[[index]], mask=instances.mask(index)[None], class_id=labels[[index]])
        for annotator in (sv.MaskAnnotator(colour, opacity=0.45), rim, sv.PolygonAnnotator(colour, thickness=line)):
            scene = annotator.annotate(scene, one)

    if len(instances) == 0:
        return cv2.cvtColor(scene, cv2.COLOR_BGR2RGB)
    text_scale = max(0.4, sv.calculate_optimal_text_scale((width, height)))
    labeller = sv.LabelAnnotator(
        _FILL,
        color_lookup=sv.ColorLookup.CLASS,  # told below: the colours of the masks
        text_color=_TEXT,
        text_scale=text_scale,
        text_thickness=max(1, round(text_scale * 1.5)),
        text_padding=max(3, round(text_scale * 8)),
        smart_position=True,  # inside the picture, and not on top of each other
    )
    words = [
        f"{f'#{track} ' if track >= 0 else ''}{classes[label]} {score:.0%}"
        for track, label, score in zip(tracks.tolist(), instances.labels.tolist(), instances.scores, strict=True)
    ]
    scene = labeller.annotate(scene, sv.Detections(xyxy=boxes, class_id=colours), labels=words)
    return cv2.cvtColor(scene, cv2.COLOR_BGR2RGB)
