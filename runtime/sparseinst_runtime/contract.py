"""The contract between a network and everything around it, as `contract.json` that travels with weights and engines.

Tensor names and dtypes, classes, input size, pixel statistics and thresholds are written here and nowhere else.
Weights carry their contract; export, server and clients read it from there.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

VERSION = 1
STRIDE = 32  # the deepest feature map of every backbone
MASK_STRIDE = 4  # the network draws its masks at a quarter of the input's size
MASK_STRIDES = (1, 2, 4, 8)  # an export may bring them to another
OBJECT = "object"  # the only class of a network that was trained without telling classes apart


class ContractError(ValueError):
    """A contract that cannot be read or does not hold together; the message names field, got and wanted."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (Triton's spelling: UINT8, INT32, FP32) and shape of one tensor, without the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Contract:
    """What a network takes and gives, version 1.

    Attributes:
        classes: class names, in the order of the network's labels.
        category_ids: the COCO category id of each class, for results in COCO's format.
        input_size: height and width of the input in pixels, multiples of 32. In JSON one number when they are equal.
        max_instances: N, the number of instances the network always returns.
        max_batch_size: the largest batch an engine must take.
        mean: per-channel mean of the training pixels, RGB on 0..255.
        std: per-channel standard deviation, RGB on 0..255.
        score_threshold: instances at or below this score are dropped unless a request says otherwise, in [0, 1].
        mask_stride: input pixels per mask pixel along each axis, one of 1, 2, 4, 8.
        mask_threshold: a pixel belongs to an instance when its probability exceeds this, in (0, 1).
        name: what the model is called, for people.
        version: version of the contract itself.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    input_size: tuple[int, int] = (640, 640)
    max_instances: int = 100
    max_batch_size: int = 8
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    score_threshold: float = 0.3
    mask_threshold: float = 0.45
    mask_stride: int = MASK_STRIDE
    name: str = "sparseinst"
    version: int = VERSION

    def __post_init__(self) -> None:
        """Validate every field, so that a Contract that exists is one that holds."""
        _want(self.version == VERSION, "version", self.version, f"{VERSION}; use the release that wrote the contract")
        _want(isinstance(self.name, str) and bool(self.name), "name", self.name, "a non-empty string")
        for field in ("classes", "category_ids", "mean", "std"):
            value = getattr(self, field)
            _want(isinstance(value, tuple), field, value, "a list")
        _want(len(self.classes) > 0, "classes", self.classes, "at least one class name")
        _want(all(isinstance(c, str) and c for c in self.classes), "classes", self.classes, "non-empty strings")
        _want(len(set(self.classes)) == len(self.classes), "classes", self.classes, "names that differ")
        wanted = f"{len(self.classes)} different integers, one for each class"
        ids_differ = len(set(self.category_ids)) == len(self.category_ids) == len(self.classes)
        _want(ids_differ and all(_is_int(i) for i in self.category_ids), "category_ids", self.category_ids, wanted)
        size = self.input_size
        sides_hold = isinstance(size, tuple) and len(size) == 2 and all(_is_int(s) and s > 0 for s in size)
        wanted = f"height and width, positive multiples of {STRIDE}"
        _want(sides_hold and all(s % STRIDE == 0 for s in size), "input_size", size, wanted)
        for field in ("max_instances", "max_batch_size"):
            value = getattr(self, field)
            _want(_is_int(value) and value > 0, field, value, "a positive integer")
        mean_holds = len(self.mean) == 3 and all(_is_number(m) and 0 <= m <= 255 for m in self.mean)
        _want(mean_holds, "mean", self.mean, "three numbers in 0..255")
        std_holds = len(self.std) == 3 and all(_is_number(s) and 0 < s <= 255 for s in self.std)
        _want(std_holds, "std", self.std, "three numbers in (0, 255]")
        score, mask = self.score_threshold, self.mask_threshold
        _want(_is_number(score) and 0 <= score <= 1, "score_threshold", score, "a number in [0, 1]")
        _want(_is_number(mask) and 0 < mask < 1, "mask_threshold", mask, "a number in (0, 1)")
        stride_holds = _is_int(self.mask_stride) and self.mask_stride in MASK_STRIDES
        _want(stride_holds, "mask_stride", self.mask_stride, f"one of {MASK_STRIDES}")

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the mask maps, in mask pixels."""
        height, width = self.input_size
        return height // self.mask_stride, width // self.mask_stride

    @property
    def class_agnostic(self) -> bool:
        """Whether `object` is the only class: evaluation then takes all categories of the annotations for this one."""
        return self.classes == (OBJECT,)

    @property
    def pad_colour(self) -> tuple[int, int, int]:
        """RGB uint8 that letterbox padding is painted with: the mean colour, zero after normalisation."""
        r, g, b = (round(m) for m in self.mean)
        return r, g, b

    @property
    def input(self) -> TensorSpec:
        """`image`: RGB pixels, letterboxed; rows, columns, channels."""
        return TensorSpec("image", "UINT8", (*self.input_size, 3))

    @property
    def outputs(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        """`scores`, `labels` (index into `classes`) and `masks` (round(255 * probability)), N of each."""
        n = self.max_instances
        return (
            TensorSpec("scores", "FP32", (n,)),
            TensorSpec("labels", "INT32", (n,)),
            TensorSpec("masks", "UINT8", (n, *self.mask_size)),
        )

    def to_json(self) -> str:
        """The contract as JSON text; `from_json` gives an equal contract back."""
        height, width = self.input_size
        return (
            json.dumps(asdict(self) | {"input_size": height if height == width else [height, width]}, indent=2) + "\n"
        )

    @classmethod
    def from_json(cls, text: str, source: str = "contract.json") -> Contract:
        """Read a contract and validate it.

        Args:
            text: JSON object with the fields of this class; those with a default may be missing.
            source: where the text came from, for the error message.

        Raises:
            ContractError: not JSON, unknown or missing fields, or a field with a wrong value.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:  # of digits or brackets without end, too
            raise ContractError(f"{source} is not JSON ({error}); wanted the contract that export wrote") from error
        if not isinstance(raw, dict):
            raise ContractError(f"{source} holds a {type(raw).__name__}; wanted a JSON object")
        known = {f.name for f in fields(cls)}
        unknown, missing = sorted(raw.keys() - known), sorted({"classes", "category_ids"} - raw.keys())
        if unknown or missing:
            raise ContractError(f"{source}: unknown fields {unknown}, missing fields {missing}; known: {sorted(known)}")
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
        }
        if _is_int(side := raw.get("input_size")):
            arguments["input_size"] = (side, side)
        try:
            return cls(**arguments)
        except ContractError as error:
            raise ContractError(f"{source}: {error}") from error
        except TypeError as error:
            raise ContractError(f"{source}: a field has the wrong type ({error})") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Contract:
        """Read `contract.json` from a file; raises ContractError when it is missing or wrong."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ContractError(
                f"no contract at {path} ({error.strerror}); export writes one beside the model"
            ) from error
        return cls.from_json(text, source=path.name)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _want(holds: bool, field: str, got: object, wanted: str) -> None:
    if not holds:
        raise ContractError(f"{field} is {got!r}; wanted {wanted}")
