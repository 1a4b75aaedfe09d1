"""What is fuzzed: functions from any bytes to nothing, that raise where a promise to hostile input is broken.

Each takes the bytes apart into the input it is about, lets our code work on it, lets pass the error that this code
promises for bad input, and checks what it got where the input was taken. Fuzzers, random or guided by coverage, and the
replay of what they once found all go through here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from sparseinst_client.errors import ReplyError
from sparseinst_client.reply import read_reply, run_lengths
from sparseinst_runtime.checksums import NAME, read_checksums
from sparseinst_runtime.contract import Contract, ContractError
from sparseinst_runtime.decode import decode, decode_letterboxed
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.limits import Limits, PictureError, check_header
from sparseinst_runtime.masks import segment
from sparseinst_runtime.rle import decode_rle
from sparseinst_runtime.triton import image_size, max_instances, response, score_threshold

# Small enough for thousands of pictures a minute; that the limits themselves hold does not depend on their values.
LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 18, max_side=2048)
PAD = (124, 116, 104)


class Bytes:
    """Takes bytes apart from the front; where they have ended, everything is zero."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def take(self, count: int) -> bytes:
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def number(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        size = max(1, ((high - low).bit_length() + 7) // 8)
        return low + int.from_bytes(self.take(size), "little") % (high - low + 1)

    def real(self) -> float:
        """Any float32, the ones that are no number included."""
        return struct.unpack("<f", self.take(4).ljust(4, b"\0"))[0]

    def array(self, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.take(size).ljust(size, b"\0"), dtype).reshape(shape).copy()


def picture(data: bytes) -> None:
    """Any bytes are a picture of the size that its header says, or a PictureError in words."""
    try:
        header = check_header(data, LIMITS)
    except PictureError:
        for function in (lambda: decode(data, LIMITS), lambda: decode_letterboxed(data, (96, 64), PAD, LIMITS)):
            expect(PictureError, function)
        return
    height, width = header.display_size
    assert 0 < height <= LIMITS.max_side
    assert 0 < width <= LIMITS.max_side
    assert height * width <= LIMITS.max_pixels
    try:
        pixels = decode(data, LIMITS)
    except PictureError:
        pixels = None
    try:
        framed, letterbox = decode_letterboxed(data, (96, 64), PAD, LIMITS)
    except PictureError:
        return
    if pixels is not None:  # only the reduced scale of a damaged JPEG may be readable where the whole is not
        assert (pixels.shape, pixels.dtype) == ((height, width, 3), np.uint8)
    assert (framed.shape, framed.dtype) == ((96, 64, 3), np.uint8)
    assert (letterbox.height, letterbox.width) == (height, width)


def expect(error: type[Exception], function: Callable[[], object]) -> None:
    """Raise AssertionError unless the function raises this error."""
    try:
        function()
    except error:
        return
    raise AssertionError(f"wanted {error.__name__}, got an answer")


def letterbox(data: bytes) -> None:
    """Every picture of at least one pixel has a place in every frame, inside it, and points come back."""
    source = Bytes(data)
    height, width = source.number(-2, 20_000), source.number(-2, 20_000)
    size = source.number(-1, 1024), source.number(-1, 1024)
    try:
        box = Letterbox.fit(height, width, size)
    except ValueError:
        assert min(height, width, *size) < 1
        return
    assert 1 <= box.scaled_height <= size[0]
    assert 1 <= box.scaled_width <= size[1]
    assert box.scaled_height == size[0] or box.scaled_width == size[1]
    corners = np.array([[0, 0], [width, height], [width / 2, height / 3]])
    np.testing.assert_allclose(box.to_picture(box.to_input(corners)), corners, atol=1e-6)
    if height * width <= 1 << 16 and size[0] * size[1] <= 1 << 16:
        framed = box.apply(np.zeros((height, width, 3), np.uint8), PAD)
        assert framed.shape == (*size, 3)
        assert not framed[: box.scaled_height, : box.scaled_width].any()
        assert (framed[box.scaled_height :] == PAD).all()


def masks(data: bytes) -> None:
    """Any output of a network becomes instances that add up, or a ValueError."""
    source = Bytes(data)
    count, side = source.number(0, 6), (source.number(0, 12), source.number(0, 12))
    box = Letterbox.fit(source.number(1, 60), source.number(1, 60), (4 * max(side[0], 1), 4 * max(side[1], 1)))
    threshold, mask_threshold, most = source.real(), source.real(), source.number(-1, 8)
    if source.number(0, 3):  # most of the time sane ones, to get beyond the checks
        threshold, mask_threshold, most = source.number(0, 10) / 10, source.number(1, 9) / 10, abs(most) or 1
    scores = source.array(np.float32, (count,))
    if source.number(0, 3):
        scores = np.abs(np.nan_to_num(scores)) % 1
    labels, maps = source.array(np.int32, (count,)), source.array(np.uint8, (count, *side))
    try:
        found = segment(
            scores,
            labels,
            maps,
            box,
            score_threshold=threshold,
            mask_threshold=mask_threshold,
            max_instances=most,
        )
    except ValueError:
        return
    assert len(found) <= most
    assert (found.scores[1:] <= found.scores[:-1]).all()
    for index, rle in enumerate(found.rles):
        runs = run_lengths(rle)
        assert runs.min() >= 0
        assert runs.sum() == box.height * box.width
        mask = found.mask(index)
        x1, y1, x2, y2 = found.boxes[index]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (x1, y1, x2, y2) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def rle(data: bytes) -> None:
    """Any string of run lengths is a mask of the size that was asked for, or a ValueError."""
    source = Bytes(data)
    size = source.number(1, 300), source.number(1, 300)
    try:
        runs = run_lengths(source.left)
    except ValueError:
        runs = None
    assert runs is None or runs.dtype == np.int64
    if runs is not None and runs.min() >= 0 and runs.sum() == size[0] * size[1]:  # what a reply may hold
        assert decode_rle({"size": list(size), "counts": source.left}).shape == size


def contract(data: bytes) -> None:
    """Any text is a contract that survives being written and read, or a ContractError."""
    try:
        found = Contract.from_json(data.decode("utf-8", errors="surrogateescape"))
    except ContractError:
        return
    assert Contract.from_json(found.to_json()) == found
    assert min(found.mask_size) >= 1


def checksums(data: bytes) -> None:
    """Any SHA256SUMS is a table of file names without folders, or a ContractError."""
    with TemporaryDirectory() as folder:
        Path(folder, NAME).write_bytes(data)
        try:
            sums = read_checksums(folder)
        except ContractError:
            return
    assert all("/" not in name and len(digest) == 64 for name, digest in sums.items())


CLASSES = Contract(classes=("bear", "deer", "otter"), category_ids=(1, 2, 3), max_instances=4, max_batch_size=2)
DTYPES = (np.float32, np.int32, np.uint8, np.int64, np.float64)


def reply(data: bytes) -> None:
    """Any tensors are instances that add up, or a ReplyError."""
    source = Bytes(data)
    batch, count = source.number(0, 2), source.number(0, 5)
    size = source.number(1, 40), source.number(1, 40)
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "scores": (np.float32, (batch, count)),
        "labels": (np.int32, (batch, count)),
        "boxes": (np.float32, (batch, count, 4)),
        "image_size": (np.int32, (batch, 2)),
        "count": (np.int32, (batch, 1)),
    }
    tensors: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in shapes.items():
        change = source.number(0, 40)
        if change == 0:
            continue
        wrong = DTYPES[source.number(0, len(DTYPES) - 1)] if change == 1 else dtype
        tensors[name] = source.array(wrong, wrong_shape(source) if change == 2 else shape)
    if source.number(0, 3) and {name: array.shape for name, array in tensors.items()} == {
        name: shape for name, (_, shape) in shapes.items()
    }:
        sane(tensors, source, size, count)
    runs = [[run_string(source, size) for _ in range(count)] for _ in range(batch)]
    tensors["masks"] = np.array(runs, np.object_).reshape(batch, count)
    try:
        found = read_reply(tensors, [size] * batch, CLASSES)
    except ReplyError:
        return
    assert len(found) == batch
    for instances in found:
        assert instances.masks().shape == (len(instances), *size)
        assert all(0 <= label < 3 for label in instances.labels)


def wrong_shape(source: Bytes) -> tuple[int, ...]:
    """Any small shape."""
    return tuple(source.number(0, 3) for _ in range(source.number(0, 4)))


def sane(tensors: dict[str, np.ndarray], source: Bytes, size: tuple[int, int], count: int) -> None:
    """Make values of a reply's tensors that most checks let through."""
    tensors["image_size"][:] = size
    tensors["count"].fill(source.number(0, count))
    tensors["scores"] = np.sort(np.nan_to_num(np.abs(tensors["scores"])) % 1)[..., ::-1].astype(np.float32)
    tensors["labels"] = (np.abs(tensors["labels"].astype(np.int64)) % 3).astype(np.int32)
    tensors["boxes"].fill(0)


def run_string(source: Bytes, size: tuple[int, int]) -> object:
    """Of a reply's masks: one that fits, any bytes, or what is no bytes at all."""
    kind = source.number(0, 7)
    if kind == 0:
        return source.take(source.number(0, 12))
    if kind == 1:
        return "text"
    from pycocotools import mask as coco_mask

    ones = source.array(np.uint8, size) > 127
    return coco_mask.encode(np.asfortranarray(ones.astype(np.uint8)))["counts"]


def request(data: bytes) -> None:
    """Any values of a request are taken within their ranges, or refused in words; a response comes of it either way."""
    source = Bytes(data)
    inputs = {
        "image_size": source.array(np.int32, (1, 2)),
        "score_threshold": source.array(np.float32, (1, 1)),
        "max_instances": source.array(np.int32, (1, 1)),
        "image": np.array([[source.left]], np.object_),
    }
    pb_utils = SimpleNamespace(
        InferenceResponse=lambda outputs=None, error=None: error or outputs,
        TritonError=TritonError,
        Tensor=lambda name, array: (name, array),
    )

    def answer(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        height, width = image_size(given, 0, LIMITS)
        assert 1 <= height * width <= LIMITS.max_pixels
        assert 0 <= score_threshold(given, 0, 0.3) <= 1
        assert (max_instances(given, 0) or 0) >= 1
        pixels, _ = decode_letterboxed(given["image"][0, 0], (64, 64), PAD, LIMITS)
        return {"pixels": pixels}

    answered = response(pb_utils, answer, lambda: inputs)
    failed = isinstance(answered, TritonError) and answered.code == TritonError.INTERNAL
    assert not failed, "broken: the log has the reason"


class TritonError:
    """A sentence and a code, as in Triton's own module, which exists only inside its Python backend."""

    INVALID_ARG, INTERNAL, CANCELLED = "invalid", "internal", "cancelled"

    def __init__(self, sentence: str, code: str) -> None:
        self.sentence, self.code = sentence, code


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (picture, letterbox, masks, rle, contract, checksums, reply, request)
}


def examples(root: Path) -> dict[str, list[bytes]]:
    """Good inputs for each target, for fuzzers to start from: nobody guesses a JPEG."""
    import cv2

    ramp = np.add.outer(np.arange(24, dtype=np.uint8) * 5, np.arange(40, dtype=np.uint8) * 3)
    colours = np.dstack([ramp, ramp[::-1], 255 - ramp])
    kinds = ((".jpg", []), (".png", []), (".webp", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]))
    pictures = [cv2.imencode(kind, colours, options)[1].tobytes() for kind, options in kinds]
    pictures.append(cv2.imencode(".jpg", ramp)[1].tobytes())
    text = (root / "assets" / "models" / "animals" / "contract.json").read_bytes()
    values = struct.pack("<iifi", 48, 64, 0.5, 10)
    return {
        "picture": pictures,
        "contract": [text, json.dumps({"classes": ["a"], "category_ids": [1]}).encode()],
        "checksums": [b"%s  model.py\n" % (b"0" * 64)],
        "request": [values + pictures[0]],
        "rle": [bytes((24, 0, 40, 0)) + b"0" * 8, bytes((9, 0, 9, 0)) + b"0:4"],
        "reply": [bytes([1, 2, 9, 9]) + bytes(200), bytes([2, 3, 30, 30]) + bytes([41] * 400)],
        "masks": [bytes([3, 8, 8, 30, 40]) + bytes(range(256)) * 2],
        "letterbox": [struct.pack("<HHHH", 480, 640, 320, 320)],
    }
