"""Bipartite matching: which prediction answers for which ground-truth instance (section 3.5 of the paper)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ALPHA = 0.8  # exponent of the mask's dice score
BETA = 0.2  # exponent of the class probability


def dice_scores(masks: Tensor, targets: Tensor) -> Tensor:
    """Dice of every prediction with every target: 2 sum(m t) / (sum m^2 + sum t^2 + 1e-4).

    Args:
        masks: [N,P] probabilities.
        targets: [T,P] in [0, 1].

    Returns:
        [N,T] in [0, 1].
    """
    overlap = 2 * masks @ targets.T
    return overlap / (masks.square().sum(-1)[:, None] + targets.square().sum(-1)[None, :] + 1e-4)


class Matcher:
    """Hungarian assignment that maximises dice^0.8 * p_class^0.2 for each picture, in fp32, under autocast too."""

    @torch.no_grad()
    def __call__(self, outputs: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Match a batch.

        Args:
            outputs: `pred_logits` [B,N,K] and `pred_masks` [B,N,h,w], logits.
            targets: for each of B pictures `labels` int64 [T] and `masks` float [T,h,w] in [0, 1]; T may be 0.

        Returns:
            B pairs (prediction indices, target indices), int64, each of length min(N, T). With more targets than
            predictions, the targets matched worst stay unmatched.
        """
        pairs = []
        for logits, masks, target in zip(outputs["pred_logits"], outputs["pred_masks"], targets, strict=True):
            if len(target["labels"]) == 0:
                empty = torch.empty(0, dtype=torch.int64, device=logits.device)
                pairs.append((empty, empty))
                continue
            with torch.autocast(masks.device.type, enabled=False):
                dice = dice_scores(masks.float().sigmoid().flatten(1), target["masks"].float().flatten(1))
            probability = logits.float().sigmoid()[:, target["labels"]]
            # What is not a number matches nothing well; the loss of it is not finite either, and tells.
            quality = (dice.pow(ALPHA) * probability.pow(BETA)).nan_to_num(0.0)
            predictions, matched = linear_sum_assignment(quality.cpu().numpy(), maximize=True)
            pairs.append(
                (torch.as_tensor(predictions, device=logits.device), torch.as_tensor(matched, device=logits.device))
            )
        return pairs
