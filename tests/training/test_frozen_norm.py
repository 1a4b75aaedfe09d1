"""Frozen norms folded into convolutions compute what they computed behind them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from sparseinst.network.frozen_norm import FoldedNorm, NormedConv2d, freeze_norms


def shake(module):
    """Give norms statistics that matter."""
    chance = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=chance) * (0.2 if name.endswith("var") else 1.0))
    return module


def block():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4))


@pytest.mark.parametrize("name", ["resnet18", "resnet18d"])
def test_outputs_gradients_and_names_are_those_of_norms_that_were_not_folded(name):
    torch.manual_seed(0)
    apart = timm.create_model(name, features_only=True, out_indices=(2, 3, 4))
    folded = freeze_norms(deepcopy(apart))
    apart = shake(freeze_batch_norm_2d(apart))
    left = [name for name, module in folded.named_modules() if type(module) is FrozenBatchNorm2d]
    assert left == (["bn1"] if name == "resnet18d" else [])  # the deep stem's convolution is a level further down
    assert list(folded.state_dict()) == list(apart.state_dict())
    folded.load_state_dict(apart.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for network in (apart, folded):
        sum(features.square().mean() for features in network(images)).backward()
    for mine, theirs in zip(folded(images), apart(images), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
    for (_, mine), (path, theirs) in zip(folded.named_parameters(), apart.named_parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3 * theirs.grad.abs().max().item()), path


def test_what_is_exported_computes_the_same_without_touching_weights():
    module = shake(freeze_norms(block())).eval()
    images = torch.rand(1, 3, 16, 16)
    program = torch.export.export(module, (images,))
    assert torch.allclose(program.module()(images), module(images), atol=1e-5)
    # Weights go into the convolutions as they are: nothing is left to an engine's constant folding.
    convolutions = [node for node in program.graph.nodes if "conv2d" in str(node.target)]
    assert len(convolutions) == 3
    assert all(node.args[1].op == "placeholder" for node in convolutions)


def test_only_a_norm_right_behind_a_plain_convolution_is_folded():
    module = freeze_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))
    assert [type(child) for child in module] == [nn.Conv2d, FrozenBatchNorm2d, nn.ReLU, FrozenBatchNorm2d]


def test_folding_draws_no_random_numbers():
    module, state = block(), torch.get_rng_state()
    freeze_norms(module)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_has_norms_of_its_own():
    module = shake(freeze_norms(block()))
    copy = deepcopy(module)
    images = torch.rand(1, 3, 16, 16)
    before = module(images)
    copy[1].bias.add_(1)
    assert isinstance(copy[0], NormedConv2d)
    assert isinstance(copy[1], FoldedNorm)
    assert torch.equal(module(images), before)
    assert not torch.allclose(copy(images), before)


@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": 1},
        {"padding": 2, "padding_mode": "reflect"},
        {"stride": 2, "groups": 2},
        {"dilation": 2, "padding": "same"},
        {"kernel_size": (1, 3), "stride": (1, 2)},
    ],
)
def test_a_plain_convolution_computes_the_same_of_its_own(geometry):
    conv = nn.Conv2d(4, 6, **{"kernel_size": 3, **geometry}, bias=False)
    apart = shake(freeze_batch_norm_2d(nn.Sequential(conv, nn.BatchNorm2d(6))))
    normed = freeze_norms(nn.Sequential(deepcopy(conv), nn.BatchNorm2d(6)))
    normed.load_state_dict(apart.state_dict())
    images, state = torch.rand(2, 4, 9, 11), torch.get_rng_state()
    plain = normed[0].plain()
    assert torch.equal(torch.get_rng_state(), state)
    assert type(plain) is nn.Conv2d
    torch.testing.assert_close(plain(images), apart(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(plain(images), normed(images))
    before = plain(images)
    normed[0].weight.data.zero_()
    normed[1].bias.zero_()
    assert torch.equal(plain(images), before)
