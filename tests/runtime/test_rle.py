"""Run lengths become the pixels they were made of, and a Ctrl-C is not lost on the way."""

from __future__ import annotations

import ctypes
import signal
from functools import partial

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst_runtime.rle import decode_rle


def encoded(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (30, 40)])
def test_masks_come_back_as_they_were_encoded(shape):
    mask = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    decoded = decode_rle(encoded(mask))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_what_is_no_run_length_is_no_interrupt():
    with pytest.raises(TypeError):
        decode_rle({"size": [5, 7], "counts": 3})


def test_an_interrupt_while_a_mask_is_decoded_is_one():
    """A real SIGINT comes when pycocotools reads the height: inside its C code, where Python cannot handle it yet.

    That takes an integer whose value comes straight from C, since Python's own code would handle the signal at once.
    """
    come = ctypes.PyDLL(None)["raise"]  # libc's; it returns 0
    come.restype = (30).__add__

    class Height:
        __int__ = __index__ = staticmethod(partial(come, int(signal.SIGINT)))

    rle = {**encoded(np.ones((30, 40))), "size": [Height(), 40]}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            decode_rle(rle)
    finally:
        signal.signal(signal.SIGINT, before)
