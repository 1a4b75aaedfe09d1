"""The training loss: focal classes, dice and cross-entropy on masks, IoU-aware objectness (eq. 5 of the paper)."""

from __future__ import annotations

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


class Criterion:
    """Loss terms of a batch, matched by `Matcher`; always fp32.

    Terms are divided by the number of instances (at least 1), so a batch without any instance has a loss: everything
    is background.
    """

    def __init__(self, weights: LossWeights | None = None, matcher: Matcher | None = None) -> None:
        self.weights = weights or LossWeights()
        self.matcher = matcher or Matcher()

    def __call__(
        self,
        outputs: dict[str, Tensor],
        targets: list[dict[str, Tensor]],
        num_instances: float | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms; their sum is the loss.

        Args:
            outputs: what SparseInst returns: logits `pred_logits` [B,N,K], `pred_scores` [B,N,1],
                `pred_masks` [B,N,h,w].
            targets: for each picture `labels` int64 [T] and `masks` [T,h,w] in [0, 1].
            num_instances: what the terms are divided by; by default the batch's own count. Distributed training and
                gradient accumulation pass the mean over all parts.

        Returns:
            `classification`, `dice`, `mask`, `objectness`: scalars with gradient.
        """
        outputs = {name: value.float() for name, value in outputs.items()}
        count = max(sum(len(t["labels"]) for t in targets) if num_instances is None else num_instances, 1.0)
        pairs = self.matcher(outputs, targets)
        logits = outputs["pred_logits"]

        wanted = torch.zeros_like(logits)
        for b, (predictions, matched) in enumerate(pairs):
            wanted[b, predictions, targets[b]["labels"][matched]] = 1.0
        classification = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0, reduction="sum") / count

        # [M,P] over all M matched pairs of the batch
        masks = torch.cat([outputs["pred_masks"][b, p] for b, (p, _) in enumerate(pairs)]).flatten(1)
        truth = torch.cat([t["masks"][m] for t, (_, m) in zip(targets, pairs, strict=True)]).flatten(1).to(masks.dtype)
        scores = torch.cat([outputs["pred_scores"][b, p] for b, (p, _) in enumerate(pairs)]).flatten()
        if len(masks) == 0:
            nothing = 0.0 * (outputs["pred_masks"].sum() + outputs["pred_scores"].sum())
            dice = mask = objectness = nothing
        else:
            dice = dice_loss(masks.sigmoid(), truth) / count
            mask = F.binary_cross_entropy_with_logits(masks, truth)
            objectness = F.binary_cross_entropy_with_logits(scores, mask_iou(masks.detach().sigmoid(), truth))
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
