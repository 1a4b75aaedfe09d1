"""Random weights whose outputs depend on the picture, as a trained network's do.

With plain random weights every feature map of a backbone with batch norms fades to nothing and all pictures give one
result, which would hide a wrong graph. So statistics are fitted to pictures and what the decoder tells apart sharpened.
"""

from __future__ import annotations

import torch
from torch import nn

from sparseinst import SparseInst
from sparseinst.network import NetworkConfig
from sparseinst.network.frozen_norm import FoldedNorm, NormedConv2d
from sparseinst.network.head import normalise
from sparseinst_export.verify import smooth_pictures
from sparseinst_runtime import Contract


def lively(config: NetworkConfig, contract: Contract, seed: int = 0, sharpness: float = 30) -> SparseInst:
    """A network of this architecture in eval mode; its activation maps and classes are `sharpness` times as decided."""
    torch.manual_seed(seed)
    model = SparseInst(config).eval()
    hooks = []
    for module in model.backbone.modules():
        if isinstance(module, NormedConv2d):
            hooks.append(module.register_forward_hook(_fit_folded))
        elif hasattr(module, "running_mean") and not isinstance(module, FoldedNorm):
            hooks.append(module.register_forward_pre_hook(_fit))
    with torch.no_grad():
        model.backbone(normalise(torch.from_numpy(smooth_pictures(8, contract.input_size, seed=99)), contract))
        branch = model.decoder.inst_branch
        branch.iam_conv.weight.mul_(sharpness)
        branch.cls_score.weight.mul_(sharpness)
        branch.mask_kernel.weight.mul_(0.3)
    for hook in hooks:
        hook.remove()
    return model


def _fit(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)))


def _fit_folded(conv: NormedConv2d, _: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    norm = conv.norm[0]  # fresh: so far it changes nothing
    _fit(norm, (output,))
    factor, shift = norm.affine()
    return output * factor.view(-1, 1, 1) + shift.view(-1, 1, 1)
