"""From a reply's six tensors to Instances, every value checked before it is used.

A server may be wrong or hostile: sizes are held against the picture that was sent and masks against their picture,
while they are still a few bytes of run lengths and before anybody takes memory for pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sparseinst_client.errors import ReplyError
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Limits

_MAX_DIGITS = 6  # of five bits each: no run of a picture within the limits needs more
# Bytes of one mask; to read it takes fifty times as many. A chessboard of 160x160 cells, which no network draws, over a
# picture of 3051x16384 pixels is 2.3 MiB.
_MAX_COUNTS = 4 * 2**20
_MAX_SCORE = 1.001  # engines of half precision round


def read_reply(
    tensors: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int] | None], contract: Contract
) -> list[Instances]:
    """The instances of every picture of one request.

    Args:
        tensors: `scores` FP32 [B,K], `labels` INT32 [B,K], `boxes` FP32 [B,K,4], `masks` BYTES [B,K], `image_size`
            INT32 [B,2] and `count` INT32 [B,1], as the server sent them; other names are ignored.
        sizes: (height, width) in pixels of each picture that was sent, None where the client cannot tell.
        contract: the model's, for classes and the largest number of instances.

    Returns:
        One Instances for each picture, in the request's order.

    Raises:
        ReplyError: anything that the wire contract does not allow; says which tensor, what was got and wanted.
    """
    batch = len(sizes)
    padded = _padded_length(tensors, contract)
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "scores": (np.float32, (batch, padded)),
        "labels": (np.int32, (batch, padded)),
        "boxes": (np.float32, (batch, padded, 4)),
        "masks": (np.object_, (batch, padded)),
        "image_size": (np.int32, (batch, 2)),
        "count": (np.int32, (batch, 1)),
    }
    for name, (dtype, shape) in shapes.items():
        _want(name in tensors, f"has no {name}; it has {sorted(tensors)}")
        array = tensors[name]
        got = f"{name} {array.dtype} {list(array.shape)}"
        _want(array.dtype == dtype and array.shape == shape, f"holds {got}; wanted {np.dtype(dtype)} {list(shape)}")
    pictures = [{name: tensors[name][index] for name in shapes} for index in range(batch)]
    return [_one_picture(picture, size, contract) for picture, size in zip(pictures, sizes, strict=True)]


def run_lengths(counts: bytes) -> np.ndarray:
    """The runs of a COCO compressed RLE mask, background first, in pixels.

    The inverse of `rleToString` in pycocotools' maskApi.c: each number is written in digits of five bits, lowest first,
    bit 5 saying that more follow and bit 4 of the last one being the sign; from the fourth number on it is the
    difference to the number two before.

    Args:
        counts: the compressed string.

    Returns:
        int64 [R]; negative where a hostile string says so.

    Raises:
        ValueError: not such a string.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("not a COCO compressed run-length string")
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    if places.max() >= _MAX_DIGITS:
        raise ValueError("a run-length string with a number that no picture needs")
    runs = np.add.reduceat((digits & 31) << (5 * places), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * (ends - starts + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _padded_length(tensors: Mapping[str, np.ndarray], contract: Contract) -> int:
    scores = tensors.get("scores")
    length = scores.shape[1] if scores is not None and scores.ndim == 2 else 0
    _want(length <= contract.max_instances, f"has {length} instances; the model gives at most {contract.max_instances}")
    return length


def _one_picture(tensors: Mapping[str, np.ndarray], size: tuple[int, int] | None, contract: Contract) -> Instances:
    height, width = (int(side) for side in tensors["image_size"])
    if size is not None:
        _want((height, width) == size, f"is about a picture of {height}x{width} pixels; {size[0]}x{size[1]} was sent")
    limits = Limits()
    sides_fit = min(height, width) > 0 and max(height, width) <= limits.max_side
    _want(sides_fit and height * width <= limits.max_pixels, f"is about a picture of {height}x{width} pixels")

    count, padded = int(tensors["count"][0]), len(tensors["scores"])
    _want(0 <= count <= padded, f"counts {count} instances and holds {padded}")
    # Copies: the arrays are views of the whole message, which would live as long as they do.
    scores, labels, boxes = (tensors[name][:count].copy() for name in ("scores", "labels", "boxes"))
    masks = tensors["masks"][:count].tolist()

    _want(bool(np.all((scores >= 0) & (scores <= _MAX_SCORE))), "has scores outside [0, 1]")
    _want(bool(np.all(scores[1:] <= scores[:-1])), "is not sorted by score")
    classes = len(contract.classes)
    _want(bool(np.all((labels >= 0) & (labels < classes))), f"has labels that are no index of the {classes} classes")
    x1, y1, x2, y2 = boxes.T
    inside = (x1 >= 0) & (x1 <= x2) & (x2 <= width) & (y1 >= 0) & (y1 <= y2) & (y2 <= height)
    _want(bool(np.all(inside)), f"has boxes outside the picture of {height}x{width} pixels")
    for index, counts in enumerate(masks):
        _check_mask(index, counts, height * width)
    return Instances(scores=scores, labels=labels, boxes=boxes, rles=tuple(masks), image_size=(height, width))


def _check_mask(index: int, counts: object, pixels: int) -> None:
    if not isinstance(counts, bytes):
        raise ReplyError(f"the server's reply has a {type(counts).__name__} as mask {index}; wanted bytes")
    # No mask has more runs than pixels (and a leading zero), no run more digits than _MAX_DIGITS.
    _want(
        len(counts) <= min(_MAX_DIGITS * (pixels + 1), _MAX_COUNTS),
        f"has {len(counts)} bytes of mask {index} for {pixels} pixels",
    )
    try:
        runs = run_lengths(counts)
    except ValueError as error:
        raise ReplyError(f"the server's reply has a mask {index} that cannot be read: {error}") from error
    fits = int(runs.min()) >= 0 and int(runs.max()) <= pixels and int(runs.sum()) == pixels
    _want(fits, f"has runs in mask {index} that do not add up to the picture's {pixels} pixels")


def _want(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ReplyError(f"the server's reply {otherwise}")
