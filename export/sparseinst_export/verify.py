"""Proof that an engine computes what the network computes in PyTorch, at other batch sizes than it was traced with.

Shapes: B batch, H x W input, N instances, mh x mw mask maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Sequence

SCORE_TOLERANCE = 1e-4  # absolute, and relative to the score; beside what pixels on the fence move, see `movable`
MASK_STEPS = 1  # a probability near a rounding boundary may land on the next of the 255 steps
# Share of the mask values that may do so: 255 times the mean error of a probability, here 2e-5. PyTorch's own float32
# lies 1e-3 from its float64 on networks with random weights, two float32 engines up to 2.3e-3 from one another.
MASK_SHARE = 5e-3
# fp16 against fp32, the shipped network on all scenes: scores differ by 5e-3, the labels of 1% of the instances, none
# of them likelier than 0.13, and masks by 22 steps; 0.5% of their values by more than one.
FP16_SCORE_TOLERANCE = 1e-2
FP16_LABELS = 0.05  # share of the instances: the best class of two that are nearly level
FP16_MASK_STEPS = 32  # on the border of an object, where the logit is near 0 and steepest in the probability
FP16_MASK_NEAR = 1  # maps near one half, as of networks with random weights, differ by a step nearly everywhere
FP16_MASK_SHARE = 2e-2
LOGITS, FP16_LOGITS = 1e-4, 2e-2  # of the largest; measured 3e-5 and 1.2e-2
GRID = 10  # cells across a smooth picture before it is scaled up


class ExportError(ValueError):
    """An export that cannot be done or does not hold; the message gives the figures, or what was got and wanted."""


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may lie from the expected outputs; see `Difference` for the figures.

    Attributes:
        score: largest `score_error`.
        labels: largest share of instances with another label, in [0, 1].
        mask_steps: largest `mask_steps`.
        mask_near: mask values that lie no more steps apart count as equal in `mask_share`.
        mask_share: largest `mask_share`.
        logits: largest `relative_error` of an extra output.
    """

    score: float = SCORE_TOLERANCE
    labels: float = 0.0
    mask_steps: int = MASK_STEPS
    mask_near: int = 0
    mask_share: float = MASK_SHARE
    logits: float = LOGITS


FP32 = Tolerance()
FP16 = Tolerance(FP16_SCORE_TOLERANCE, FP16_LABELS, FP16_MASK_STEPS, FP16_MASK_NEAR, FP16_MASK_SHARE, FP16_LOGITS)


def relative_error(expected: np.ndarray, got: np.ndarray) -> float:
    """Largest |got - expected| over the largest |expected|: what a tensor of logits or activations is held to."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@dataclass(frozen=True)
class Difference:
    """How far an engine's outputs lie from the expected ones.

    Attributes:
        batch: number of pictures compared.
        score: largest of |got - expected| over the scores.
        score_error: largest of (|got - expected| - movable) / (1 + |expected|): what no pixel on the fence explains.
        labels: number of instances with another label.
        mask_steps: largest difference of two mask values, in steps of 1/255.
        mask_share: share of mask values that differ by more than the tolerance's `mask_near` steps, in [0, 1].
        instances: number of instances compared, over all pictures.
        tolerance: what `holds` asks for.
        logits: largest `relative_error` of the extra outputs; 0 where there are none.
    """

    batch: int
    score: float
    score_error: float
    labels: int
    mask_steps: int
    mask_share: float
    instances: int
    tolerance: Tolerance = FP32
    logits: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything is within tolerance; false where a score is not a number."""
        wanted = self.tolerance
        scores_hold = self.score_error <= wanted.score and self.labels <= wanted.labels * self.instances
        return (
            scores_hold
            and self.logits <= wanted.logits
            and self.mask_steps <= wanted.mask_steps
            and self.mask_share <= wanted.mask_share
        )

    def __str__(self) -> str:
        wanted = self.tolerance
        return (
            f"batch {self.batch}: scores differ by {self.score:.1e}, "
            f"{max(self.score_error, 0):.1e} beyond what pixels at the mask threshold move ({wanted.score:.0e}), "
            f"labels of {self.labels} instances ({int(wanted.labels * self.instances)}), "
            f"masks by {self.mask_steps} steps of 1/255 ({wanted.mask_steps}) "
            f"and by more than {wanted.mask_near} on {self.mask_share:.1e} of their values ({wanted.mask_share:.0e}), "
            f"extra outputs by {self.logits:.1e} of their largest value ({wanted.logits:.0e})"
        )


def smooth_pictures(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random pictures with shapes as large as objects; white noise would leave every activation near its mean.

    Args:
        count: number of pictures B.
        size: height and width in pixels.
        seed: the same seed gives the same pictures.

    Returns:
        uint8 [B,H,W,3], the whole range 0..255 in use.
    """
    cells = np.random.default_rng(seed).uniform(-64, 320, (count, GRID, GRID, 3)).astype(np.float32)
    pictures = np.empty((count, *size, 3), np.uint8)
    for grid, picture in zip(cells, pictures, strict=True):
        picture[:] = cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).clip(0, 255).round()
    return pictures


def movable(expected: Sequence[np.ndarray], got: Sequence[np.ndarray], mask_threshold: float) -> np.ndarray:
    """How far two scores may lie apart though every probability is the same up to rounding: float64 [B,N].

    A score holds maskness, the mean probability of the pixels above the threshold t, and jumps when a pixel crosses t.
    A pixel that may have done so is on the fence: round(255 t) lies between its two values, or is one of them. With n
    pixels surely inside, of mean p, and k on the fence, maskness lies in [(n p + k t) / (n + k), p]: the lower end is
    1 - k/(n+k) (1 - t/p) >= 1 - k/(n+k) (1-t) of the upper. With n = 0 it may fall to 0.

    Args:
        expected: scores float32 [B,N], labels int32 [B,N], masks uint8 [B,N,mh,mw].
        got: the same from the engine.
        mask_threshold: t, that of the contract.
    """
    level = round(255 * mask_threshold)
    on_fence = (np.minimum(expected[2], got[2]) <= level) & (np.maximum(expected[2], got[2]) >= level)
    fence = np.count_nonzero(on_fence, axis=(-2, -1))
    sure = np.count_nonzero((expected[2] > level) & ~on_fence, axis=(-2, -1))
    share = np.where(sure > 0, 1 - mask_threshold, 1.0) * fence / np.maximum(sure + fence, 1)
    return np.asarray(np.maximum(expected[0], got[0]) * share)


def aligned(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of all instances the ones that an engine gave out, in its order; where scores tie, which these are is open.

    Args:
        expected: scores float32 [B,N], labels int32 [B,N], masks uint8 [B,N,mh,mw].
        got: the same of the engine for K instances, the best first, K at most N.

    Returns:
        As `got`: of `expected` those nearest to it, one to one, by score, label and mask. The scores are the K best,
        whichever instances they belong to: an engine that leaves out a better one is seen.
    """
    nearest = []
    for scores, labels, masks, score, label, mask in zip(*expected, *got, strict=True):
        flat, other = (maps.reshape(len(maps), -1).astype(np.float32) / 255 for maps in (masks, mask))
        apart = np.stack([np.abs(flat - one).mean(axis=1) for one in other], axis=1)  # [N,K]
        cost = np.abs(scores[:, None] - score) + (labels[:, None] != label) + apart
        rows, columns = linear_sum_assignment(cost)
        nearest.append(rows[np.argsort(columns)])
    rows = np.stack(nearest)
    best = -np.sort(-expected[0], axis=1)[:, : rows.shape[1]]
    return [best, np.take_along_axis(expected[1], rows, 1), np.take_along_axis(expected[2], rows[..., None, None], 1)]


def compare(
    expected: Sequence[np.ndarray], got: Sequence[np.ndarray], mask_threshold: float, tolerance: Tolerance = FP32
) -> Difference:
    """Compare the contract's three outputs of one batch.

    Args:
        expected: scores float32 [B,N], labels int32 [B,N], masks uint8 [B,N,mh,mw].
        got: the same from the engine.
        mask_threshold: that of the contract.
        tolerance: what the difference is held to.

    Raises:
        ExportError: a shape or dtype differs, so that there is nothing to compare.
    """
    for name, one, other in zip(("scores", "labels", "masks"), expected, got, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ExportError(f"{name} came as {other.dtype} {other.shape}; wanted {one.dtype} {one.shape}")
    scores, labels, masks = expected
    distance = np.abs(got[0] - scores)
    beyond = (distance - movable(expected, got, mask_threshold)) / (1 + np.abs(scores))
    steps = cv2.absdiff(masks.reshape(-1), got[2].reshape(-1))
    return Difference(
        batch=len(scores),
        score=float(distance.max()),
        score_error=float(beyond.max()),
        labels=int(np.count_nonzero(got[1] != labels)),
        mask_steps=int(steps.max()),
        mask_share=float(np.count_nonzero(steps > tolerance.mask_near) / steps.size),
        instances=labels.size,
        tolerance=tolerance,
    )
