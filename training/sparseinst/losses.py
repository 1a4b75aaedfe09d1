"""The training loss: focal classes, dice and cross-entropy on masks, IoU-aware objectness (eq. 5 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from sparseinst.matcher import Matcher

BINARY_PREDICTION = 0.4  # mask probability above which a pixel counts for the objectness target
BINARY_TARGET = 0.5


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; the published code's values (the paper's text says 2 for `mask`)."""

    classification: float = 2.0
    dice: float = 2.0
    mask: float = 5.0
    objectness: float = 1.0


@dataclass(frozen=True)
class Counts:
    """What loss terms are divided by; each at least 1, so that a batch without any instance has a loss: background.

    Attributes:
        instances: ground-truth instances; classification and dice are sums over them.
        matched: instances that get a query, at most as many as a picture has queries; mask and objectness are means
            over them.
    """

    instances: float
    matched: float

    @classmethod
    def of(cls, targets: Sequence[Mapping[str, Tensor]], queries: int) -> Counts:
        """Of a batch whose pictures have `queries` queries each."""
        lengths = [len(target["labels"]) for target in targets]
        return cls(sum(lengths), sum(min(length, queries) for length in lengths))


class Criterion:
    """Loss terms of a batch, matched by `Matcher`; always fp32, under autocast too.

    Every term is a sum over the batch divided by a count. Given the counts of a larger whole, the terms of its parts
    add up to those of the whole: so passes are accumulated, and processes share a batch.
    """

    def __init__(self, weights: LossWeights | None = None, matcher: Matcher | None = None) -> None:
        self.weights = weights or LossWeights()
        self.matcher = matcher or Matcher()

    def __call__(
        self,
        outputs: dict[str, Tensor],
        targets: list[dict[str, Tensor]],
        whole: Counts | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms; their sum is the loss.

        Args:
            outputs: what SparseInst returns: logits `pred_logits` [B,N,K], `pred_scores` [B,N,1],
                `pred_masks` [B,N,h,w].
            targets: for each picture `labels` int64 [T] and `masks` [T,h,w] in [0, 1].
            whole: counts of all that one optimiser step sees, where this batch is a part of it; by default the
                batch's own.

        Returns:
            `classification`, `dice`, `mask`, `objectness`: scalars with gradient.
        """
        with torch.autocast(outputs["pred_logits"].device.type, enabled=False):
            return self._terms(outputs, targets, whole)

    def _terms(
        self, outputs: dict[str, Tensor], targets: list[dict[str, Tensor]], whole: Counts | None
    ) -> dict[str, Tensor]:
        outputs = {name: value.float() for name, value in outputs.items()}
        whole = whole or Counts.of(targets, outputs["pred_masks"].shape[1])
        instances, paired = max(whole.instances, 1.0), max(whole.matched, 1.0)
        pairs = self.matcher(outputs, targets)
        logits = outputs["pred_logits"]

        wanted = torch.zeros_like(logits)
        for b, (predictions, matched) in enumerate(pairs):
            wanted[b, predictions, targets[b]["labels"][matched]] = 1.0
        classification = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0, reduction="sum") / instances

        # [M,P] over all M matched pairs of the batch
        masks = torch.cat([outputs["pred_masks"][b, p] for b, (p, _) in enumerate(pairs)]).flatten(1)
        truth = torch.cat([t["masks"][m] for t, (_, m) in zip(targets, pairs, strict=True)]).flatten(1).to(masks.dtype)
        scores = torch.cat([outputs["pred_scores"][b, p] for b, (p, _) in enumerate(pairs)]).flatten()
        if len(masks) == 0:
            nothing = 0.0 * (outputs["pred_masks"].sum() + outputs["pred_scores"].sum())
            dice = mask = objectness = nothing
        else:
            dice = dice_loss(masks.sigmoid(), truth) / instances
            mask = F.binary_cross_entropy_with_logits(masks, truth, reduction="sum") / (masks.shape[1] * paired)
            iou = mask_iou(masks.detach().sigmoid(), truth)
            objectness = F.binary_cross_entropy_with_logits(scores, iou, reduction="sum") / paired
        weights = self.weights
        return {
            "classification": weights.classification * classification,
            "dice": weights.dice * dice,
            "mask": weights.mask * mask,
            "objectness": weights.objectness * objectness,
        }


def dice_loss(masks: Tensor, truth: Tensor) -> Tensor:
    """Sum over pairs of 1 - dice, for probabilities and targets [M,P] in [0, 1]."""
    overlap = 2 * (masks * truth).sum(-1)
    return (1 - overlap / (masks.square().sum(-1) + truth.square().sum(-1) + 1e-4)).sum()


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of the binarised pairs, [M] in [0, 1]: what objectness learns to predict."""
    predicted, wanted = masks >= BINARY_PREDICTION, truth > BINARY_TARGET
    intersection = (predicted & wanted).sum(-1)
    union = (predicted | wanted).sum(-1)
    return intersection / (union + 1e-6)
