"""Scoring: the network's logits -> scores, labels and uint8 masks. Evaluation uses it and it is what gets exported.

Shapes: B batch, N instances, K classes, S input side, m = S/4.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sparseinst.network.config import NetworkConfig
from sparseinst_runtime import Contract


def normalise(images: Tensor, contract: Contract) -> Tensor:
    """uint8 RGB [B,H,W,3] -> float32 [B,3,H,W], zero mean and unit variance by the contract's statistics.

    Cast first, then permute: TensorRT has no uint8 transpose.
    """
    pixels = images.float().permute(0, 3, 1, 2)
    mean = torch.tensor(contract.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(contract.std, device=images.device).view(1, 3, 1, 1)
    return (pixels - mean) / std


def score(
    outputs: dict[str, Tensor], mask_threshold: float, *, rescoring: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Class probability and objectness, re-scored by the mask's own confidence, in float32.

    score = sqrt(p_class * p_objectness) * maskness, where maskness is the mean probability of the pixels above the
    threshold (section 3.4 of the paper); it is 0 where no pixel is, so that an empty mask cannot win.

    Args:
        outputs: what SparseInst returns.
        mask_threshold: probability above which a pixel belongs to the instance.
        rescoring: see `class_confidence`.

    Returns:
        Scores [B,N] in [0, 1], labels [B,N] int64, mask probabilities [B,N,m,m] in [0, 1].
    """
    confidence, labels = class_confidence(outputs, rescoring=rescoring)
    probabilities = outputs["pred_masks"].float().sigmoid()
    inside = (probabilities > mask_threshold).float()
    maskness = (probabilities * inside).sum(dim=(-2, -1)) / (inside.sum(dim=(-2, -1)) + 1e-6)
    return confidence * maskness, labels, probabilities


def class_confidence(outputs: dict[str, Tensor], *, rescoring: bool = True) -> tuple[Tensor, Tensor]:
    """sqrt(p_class * p_objectness) of the likeliest class: [B,N] in [0, 1]; and labels [B,N].

    Without `rescoring` (`DecoderConfig.rescoring`) the objectness is left out, and it is p_class.
    """
    classes, labels = outputs["pred_logits"].float().sigmoid().max(dim=-1)
    if not rescoring:
        return classes, labels
    objectness = outputs["pred_scores"].float().sigmoid().squeeze(-1)
    return (classes * objectness).sqrt(), labels


class ServingModel(nn.Module):
    """The contract as a module: normalisation, network and scoring in one graph.

    Args:
        model: a SparseInst, or what has its `config` and gives its outputs.
        contract: pixel statistics and thresholds.
    """

    def __init__(self, model: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.model, self.contract = model, contract

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB [B,S,S,3] -> scores float32 [B,N], labels int32 [B,N], masks uint8 [B,N,m,m] = round(255 p)."""
        outputs = self.model(normalise(image, self.contract))
        rescoring = cast(NetworkConfig, self.model.config).decoder.rescoring
        scores, labels, probabilities = score(outputs, self.contract.mask_threshold, rescoring=rescoring)
        return scores, labels.int(), (probabilities * 255).round().to(torch.uint8)
