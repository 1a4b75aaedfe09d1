"""The training loss: focal classes, dice and cross-entropy on masks, IoU-aware objectness (eq. 5 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from sparseinst.matcher import Matcher

BINARY_PREDICTION = 0.4  # mask probability above which a pixel counts for the objectness target
BINARY_TARGET = 0.5


@dataclass(frozen=True)
class LossConfig:
    """Weight and kind of each term; the published code's values (the paper's text says 2 for `mask`).

    Attributes:
        classification: weight of the focal loss on the classes.
        dice: weight of the dice loss on the masks.
        mask: weight of the loss on the masks' pixels.
        objectness: weight of the loss on the objectness.
        pixel_loss: of the masks' pixels: `cross_entropy`, or `focal` with alpha 0.25 and gamma 2.
        objectness_loss: how the objectness learns the mask's IoU: `cross_entropy`, or `l1` of its probability.
    """

    classification: float = 2.0
    dice: float = 2.0
    mask: float = 5.0
    objectness: float = 1.0
    pixel_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    objectness_loss: Literal["cross_entropy", "l1"] = "cross_entropy"


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
    def of(cls, targets: Sequence[Mapping[str, Any]], queries: int) -> Counts:
        """Of a batch whose pictures have `queries` queries each."""
        lengths = [len(target["labels"]) for target in targets]
        return cls(sum(lengths), sum(min(length, queries) for length in lengths))


class Criterion:
    """Loss terms of a batch, matched by `Matcher`; always fp32, under autocast too.

    Every term is a sum over the batch divided by a count. Given the counts of a larger whole, the terms of its parts
    add up to those of the whole: so passes are accumulated, and processes share a batch.
    """

    def __init__(self, config: LossConfig | None = None, matcher: Matcher | None = None) -> None:
        self.config = config or LossConfig()
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
            mask = self._pixel_loss(masks, truth) / (masks.shape[1] * paired)
            objectness = self._objectness_loss(scores, mask_iou(masks.detach().sigmoid(), truth)) / paired
        weights = self.config
        return {
            "classification": weights.classification * classification,
            "dice": weights.dice * dice,
            "mask": weights.mask * mask,
            "objectness": weights.objectness * objectness,
        }

    def _pixel_loss(self, masks: Tensor, truth: Tensor) -> Tensor:
        """Sum over pairs and pixels, for logits and targets [M,P]."""
        if self.config.pixel_loss == "focal":
            return sigmoid_focal_loss(masks, truth, alpha=0.25, gamma=2.0, reduction="sum")
        return F.binary_cross_entropy_with_logits(masks, truth, reduction="sum")

    def _objectness_loss(self, scores: Tensor, iou: Tensor) -> Tensor:
        """Sum over pairs, for logits and the masks' IoU [M]."""
        if self.config.objectness_loss == "l1":
            return F.l1_loss(scores.sigmoid(), iou, reduction="sum")
        return F.binary_cross_entropy_with_logits(scores, iou, reduction="sum")


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
