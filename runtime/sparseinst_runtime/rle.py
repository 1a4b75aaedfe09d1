"""COCO's compressed run lengths to pixels, by pycocotools, without losing a Ctrl-C on the way.

Every mask that is decoded in a loop goes through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Paint one mask.

    Args:
        rle: `size` (height, width) and `counts`, COCO's compressed run lengths.

    Returns:
        uint8 [H, W] of 0 and 1, column after column in memory. Where the runs end early, the rest is arbitrary.

    Raises:
        ValueError: the run lengths are none, or exceed the size.
        KeyboardInterrupt: Ctrl-C, also where NumPy would hide it.
    """
    try:
        mask: NDArray[np.uint8] = coco_mask.decode(rle)
    except TypeError as error:
        if "unexpected keyword argument 'copy'" not in str(error):
            raise
        # pycocotools' `__array__` knows no `copy`. NumPy 2 recognises that by the error's text and asks again without,
        # but it puts this error in the place of what a signal's handler raises while it makes the text. So whoever sees
        # it here sees an interrupt.
        raise KeyboardInterrupt from error
    return mask
