"""Proof that an engine computes what the network computes in PyTorch, at other batch sizes than it was traced with.

Shapes: B batch, S input side, N instances, m = S/4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SCORE_TOLERANCE = 1e-4  # absolute, and relative to the score
MASK_STEPS = 1  # a probability near a rounding boundary may land on the next of the 255 steps
# Share of the mask values that may do so: 255 times the mean error of a probability, here 2e-5. PyTorch's own float32
# lies 1e-3 from its float64 on networks with random weights, two float32 engines up to 2.3e-3 from one another.
MASK_SHARE = 5e-3
GRID = 10  # cells across a smooth picture before it is scaled up


class ExportError(ValueError):
    """An export that cannot be done or does not hold; the message gives the figures, or what was got and wanted."""


@dataclass(frozen=True)
class Difference:
    """How far an engine's outputs lie from the expected ones.

    Attributes:
        batch: number of pictures compared.
        score: largest of |got - expected| / (1 + |expected|) over the scores.
        labels: number of instances with another label.
        mask_steps: largest difference of two mask values, in steps of 1/255.
        mask_share: share of mask values that differ, in [0, 1].
    """

    batch: int
    score: float
    labels: int
    mask_steps: int
    mask_share: float

    @property
    def holds(self) -> bool:
        """Whether everything is within tolerance; false where a score is not a number."""
        scores_hold = self.score <= SCORE_TOLERANCE
        return scores_hold and not self.labels and self.mask_steps <= MASK_STEPS and self.mask_share <= MASK_SHARE

    def __str__(self) -> str:
        return (
            f"batch {self.batch}: scores differ by {self.score:.1e} (at most {SCORE_TOLERANCE:.0e}), "
            f"labels of {self.labels} instances (0), masks by {self.mask_steps} steps of 1/255 ({MASK_STEPS}) "
            f"on {self.mask_share:.1e} of their values ({MASK_SHARE:.0e})"
        )


def smooth_pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Random pictures with shapes as large as objects; white noise would leave every activation near its mean.

    Args:
        count: number of pictures B.
        size: side S in pixels.
        seed: the same seed gives the same pictures.

    Returns:
        uint8 [B,S,S,3], the whole range 0..255 in use.
    """
    cells = np.random.default_rng(seed).uniform(-64, 320, (count, GRID, GRID, 3)).astype(np.float32)
    pictures = np.empty((count, size, size, 3), np.uint8)
    for grid, picture in zip(cells, pictures, strict=True):
        picture[:] = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 255).round()
    return pictures


def compare(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> Difference:
    """Compare the contract's three outputs of one batch.

    Args:
        expected: scores float32 [B,N], labels int32 [B,N], masks uint8 [B,N,m,m].
        got: the same from the engine.

    Raises:
        ExportError: a shape or dtype differs, so that there is nothing to compare.
    """
    for name, one, other in zip(("scores", "labels", "masks"), expected, got, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ExportError(f"{name} came as {other.dtype} {other.shape}; wanted {one.dtype} {one.shape}")
    scores, labels, masks = expected
    steps = cv2.absdiff(masks.reshape(-1), got[2].reshape(-1))
    return Difference(
        batch=len(scores),
        score=float(np.max(np.abs(got[0] - scores) / (1 + np.abs(scores)))),
        labels=int(np.count_nonzero(got[1] != labels)),
        mask_steps=int(steps.max()),
        mask_share=float(np.count_nonzero(steps) / steps.size),
    )
