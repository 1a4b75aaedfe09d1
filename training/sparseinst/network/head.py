"""Scoring: the network's logits -> scores, labels and uint8 masks. Evaluation uses it and it is what gets exported.

Shapes: B batch, N instances of the network, K of them given out, H x W input, h x w = H/4 x W/4 mask logits.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseinst.network.config import NetworkConfig
from sparseinst_runtime.contract import MASK_STRIDE, Contract


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
        Scores [B,N] in [0, 1], labels [B,N] int64, mask probabilities [B,N,h,w] in [0, 1].
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
        contract: pixel statistics, thresholds, how many instances are given out and how finely their masks.

    Raises:
        ValueError: the contract wants more instances than the network has.
    """

    def __init__(self, model: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.model, self.contract = model, contract
        instances = cast(NetworkConfig, model.config).decoder.instances
        if contract.max_instances > instances:
            raise ValueError(
                f"max_instances is {contract.max_instances}; wanted at most {instances}, as many as the network has"
            )
        self.keep = contract.max_instances if contract.max_instances < instances else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 RGB [B,H,W,3] -> scores float32 [B,K], labels int32 [B,K], masks uint8 [B,K,mh,mw] = round(255 p).

        With K below N they are the K best by score, the best first; else all, in the network's order.
        """
        return self.answer(self.model(normalise(image, self.contract)))

    def answer(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns, from the network's logits."""
        contract = self.contract
        rescoring = cast(NetworkConfig, self.model.config).decoder.rescoring
        scores, labels, probabilities = score(outputs, contract.mask_threshold, rescoring=rescoring)
        if self.keep is not None:
            scores, labels, probabilities = keep_best(scores, labels, probabilities, self.keep)
        if contract.mask_stride != MASK_STRIDE:
            # Between the centres of the network's own cells, as post-processing does; to half the size it is the mean.
            probabilities = F.interpolate(probabilities, contract.mask_size, mode="bilinear", align_corners=False)
        return scores, labels.int(), (probabilities * 255).round().to(torch.uint8)


def keep_best(scores: Tensor, labels: Tensor, masks: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `keep` instances with the highest scores, the best first.

    Args:
        scores: [B,N].
        labels: [B,N].
        masks: [B,N,h,w].
        keep: K, at most N.

    Returns:
        [B,K], [B,K] and [B,K,h,w].
    """
    batch, instances = scores.shape
    scores, best = scores.topk(keep, dim=1)
    # One plain gather of rows, which every engine has; a gather along dim 1 wants an index as large as the masks.
    rows = (best + instances * torch.arange(batch, device=best.device)[:, None]).flatten()
    masks = masks.flatten(0, 1).index_select(0, rows).unflatten(0, (batch, keep))
    return scores, labels.gather(1, best), masks
