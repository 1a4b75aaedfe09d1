"""Pictures, what a network finds in them and what is there, read from disk for a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparseinst.data import CocoInstances
from sparseinst.figures.activations import FigureError
from sparseinst.figures.drawing import Picture
from sparseinst.figures.grid import Scene, Shapes
from sparseinst.predict import Predictor
from sparseinst_runtime.coco import picture_files
from sparseinst_runtime.decode import decode
from sparseinst_runtime.limits import PictureError

MOST = 64  # pictures of a grid: more could not be told apart, and all of them are in memory at once


@dataclass(frozen=True)
class Truth:
    """Ground truth of a grid: COCO's instances JSON and the folder of its pictures."""

    annotations: Path
    images: Path


def read_picture(path: Path) -> Picture:
    """A picture of the disk, uint8 RGB [H,W,3].

    Raises:
        FigureError: it cannot be read or is no picture.
    """
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise FigureError(f"cannot read {path} ({error.strerror}); wanted a JPEG, PNG or WEBP picture") from error
    except PictureError as error:
        raise FigureError(f"{path}: {error}") from error


def read_scenes(
    predictor: Predictor,
    pictures: Sequence[Path],
    truth: Truth | None = None,
    track: Callable[[list[Path]], Iterable[Path]] = iter,
) -> list[Scene]:
    """Find instances in pictures, and put the ground truth beside them.

    Args:
        predictor: what finds.
        pictures: files; with `truth` each must be one of its pictures, and none means all of them.
        truth: the ground truth, if there is one.
        track: wraps the list that is gone through, to show progress.

    Raises:
        DataError: annotations or pictures that cannot be read.
        FigureError: no picture or more than `MOST`, one that cannot be read, or one that the annotations do not know.
        ValueError: annotations that are not COCO's instances JSON.
    """
    dataset, rows = None, {}
    if truth:
        dataset = CocoInstances(truth.annotations, truth.images, keep_empty=True)
        row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
        rows = {path.resolve(): row_of[i] for i, path in picture_files(truth.annotations, truth.images) if i in row_of}
        pictures = pictures or list(rows)
    if not 0 < len(pictures) <= MOST:
        raise FigureError(f"got {len(pictures)} pictures to draw; wanted 1 to {MOST}, name those that matter")
    strangers = [path for path in pictures if dataset and path.resolve() not in rows]
    if truth and strangers:
        raise FigureError(
            f"{strangers[0]} is none of the pictures of {truth.annotations}; wanted one in {truth.images}"
        )

    scenes = []
    for path in track(list(pictures)):
        sample = dataset.sample(rows[path.resolve()]) if dataset else None
        picture = sample.image if sample else read_picture(path)
        instances = predictor(picture)
        classes = predictor.contract.classes
        words = (f"{classes[k]} {score:.2f}" for k, score in zip(instances.labels, instances.scores, strict=True))
        found = Shapes(instances.masks(), tuple(words))
        there = None
        if sample and dataset:
            there = Shapes(sample.masks.astype(np.bool_), tuple(dataset.classes[k] for k in sample.labels))
        scenes.append(Scene(picture, found, there))
    return scenes
