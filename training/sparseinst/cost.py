"""What a network costs on paper: multiply-adds for a picture and parameters, by part, without computing anything.

One multiply-add (MAC) is one product and one sum: half of what FLOP counters count. Convolutions, matrix products and
attention are counted; normalisation, activations, sums and resizing are not. (Counters that take bilinear resizing in,
four to a value, find 0.03 GMACs more in G-IAM on ResNet-50 at 640x640.)
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from sparseinst.checkpoint import parameter_count
from sparseinst.network import SparseInst
from sparseinst_runtime.contract import STRIDE

PARTS = ("backbone", "encoder", "decoder")


def multiply_adds(model: SparseInst, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of one forward pass of one picture.

    The pyramid pooling counts as the matrix products that it is. A deformable convolution counts as a plain one of its
    shape and the one that predicts its offsets; the bilinear sampling of its taps does not count.

    Args:
        model: in any mode, on any device; it is neither run nor changed.
        height: of the padded input, in pixels, a multiple of 32.
        width: likewise.

    Returns:
        `backbone`, `encoder`, `decoder`.

    Raises:
        ValueError: a size that is not a positive multiple of 32.
    """
    if height < STRIDE or width < STRIDE or height % STRIDE or width % STRIDE:
        raise ValueError(f"input is {height}x{width} pixels; wanted positive multiples of {STRIDE}")
    counts = {}
    # Fake tensors have shapes and no values: counting takes neither time nor memory. (The meta device would do as well,
    # had it autocasting, which the decoder names.)
    with FakeTensorMode(), torch.no_grad():
        features: Any = torch.empty(1, 3, height, width)
        for part in PARTS:
            module = model.get_submodule(part)
            tensors = chain(module.named_parameters(), module.named_buffers())
            state = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
            with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
                features = functional_call(module, state, (features,))
            counts[part] = counter.get_total_flops() // 2
    return counts


def parameters(model: SparseInst) -> dict[str, int]:
    """Number of parameters of `backbone`, `encoder`, `decoder`; frozen batch norms are buffers and do not count."""
    return {part: parameter_count(model.get_submodule(part)) for part in PARTS}


def _deformable(_features: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """FLOPs of `torchvision::deform_conv2d`: out [B,C',h,w], each value a sum over weight [C',C/groups,kh,kw]."""
    batch, channels, height, width = out_shape
    return 2 * batch * height * width * torch.Size(weight).numel() // weight[0] * channels


_FORMULAS = {torch.ops.torchvision.deform_conv2d: _deformable}
