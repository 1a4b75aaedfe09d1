"""Arguments that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sparseinst.data import CocoInstances

T = TypeVar("T")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: int or float, above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse: "invalid positive int value: '0'"
    return number


def listed(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A type for argparse: values with commas between them, at least one."""

    def values(text: str) -> tuple[T, ...]:
        parts = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        if not parts:
            raise ValueError
        return parts

    values.__name__ = f"list of {kind.__name__}"  # argparse: "invalid list of int value: ','"
    return values


def device(name: str | None) -> str:
    """The device to compute on, tried out; ValueError where there is none of that name."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}); wanted cpu or a GPU that is there") from error
    return name


def add_datasets(parser: argparse.ArgumentParser) -> None:
    """The arguments that name the pictures to train and to evaluate on."""
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON of the training pictures")
    parser.add_argument("--images", type=Path, required=True, help="folder of the training pictures")
    parser.add_argument("--val-annotations", type=Path, required=True, help="COCO JSON to evaluate on")
    parser.add_argument("--val-images", type=Path, required=True, help="folder of the pictures to evaluate on")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="all categories are one class, called object, from here on"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="decode pictures each time: for data larger than memory"
    )


def read_datasets(arguments: argparse.Namespace) -> tuple[CocoInstances, CocoInstances]:
    """Pictures to train on, without those that show nothing, and pictures to evaluate on.

    Raises:
        DataError: one cannot be read, their classes differ, or there is nothing to evaluate on.
    """
    from sparseinst.data import CocoInstances, DataError

    options = {"cache": not arguments.no_cache, "class_agnostic": arguments.class_agnostic}
    train = CocoInstances(arguments.annotations, arguments.images, keep_empty=False, **options)
    val = CocoInstances(arguments.val_annotations, arguments.val_images, keep_empty=True, **options)
    if (train.classes, train.category_ids) != (val.classes, val.category_ids):
        raise DataError(f"training has classes {train.classes}, validation {val.classes}; wanted the same")
    if not val.instance_count:
        raise DataError(f"{arguments.val_annotations} has no instance to evaluate on; wanted at least one")
    return train, val
