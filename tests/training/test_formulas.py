"""Encoder, decoder and scoring held against the formulas of `reference_numpy`, at sizes that divide by nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_numpy import (
    Weights,
    context_encoder,
    decoder,
    instance_branch,
    mask_branch,
    pyramid_pooling,
    sigmoid,
)
from torch import nn

from sparseinst.network import DecoderConfig, EncoderConfig, SparseInst, score
from sparseinst.network.decoder import Decoder, InstanceBranch, MaskBranch
from sparseinst.network.encoder import InstanceContextEncoder, PyramidPooling

# Largest error allowed; activation maps are summed and divided in float32, whatever the dtype around them.
EXACT, NORMALISED = 1e-9, 3e-6
SIZES = [(5, 7), (12, 20), (1, 1), (9, 1), (1, 6)]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and bias at random, float64, about as large as keeps the signal: no term is hidden by a zero."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for parameter in module.parameters():
        spread = (2 / max(parameter[0].numel(), 1)) ** 0.5 if parameter.ndim > 1 else 0.3
        nn.init.normal_(parameter, std=spread, generator=generator)
    return module


def maps(channels: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Two pictures' feature maps, far from symmetric."""
    return torch.randn(2, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(module: nn.Module, *inputs):
    with torch.inference_mode():
        return module(*inputs)


def error(got, expected) -> float:
    """Largest difference, relative to the largest value where that is above 1; infinite where a value is not finite."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    return float(np.nan_to_num(np.abs(got - expected).max() / np.abs(expected).max(initial=1), nan=np.inf))


@pytest.mark.parametrize("size", SIZES)
def test_pyramid_pooling_equals_its_formula(size):
    module, features = randomised(PyramidPooling(12, (1, 2, 3, 6))), maps(12, size)
    expected = [pyramid_pooling(Weights(module), x) for x in features.numpy()]
    assert error(run(module, features), expected) < EXACT


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (3, 5), (5, 7)])
def test_the_context_encoder_equals_its_formula(height, width):
    module = randomised(InstanceContextEncoder((3, 5, 7), EncoderConfig(12)))
    c3, c4, c5 = (maps(c, (k * height, k * width), c) for c, k in ((3, 4), (5, 2), (7, 1)))
    pictures = zip(c3.numpy(), c4.numpy(), c5.numpy(), strict=True)
    expected = [context_encoder(Weights(module), *picture) for picture in pictures]
    assert min(x.min() for x in expected) < -0.1  # there is no activation behind the fusion
    assert error(run(module, [c3, c4, c5]), expected) < EXACT


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_branch_equals_its_formula(size):
    config = DecoderConfig(channels=8, depth=4, kernel_dim=5)
    module, features = randomised(MaskBranch(6, config)), maps(6, size)
    expected = [mask_branch(Weights(module), x, config) for x in features.numpy()]
    assert np.min(expected) < -0.1  # nor behind the projection
    assert error(run(module, features), expected) < EXACT


@pytest.mark.parametrize("size", SIZES[:4])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_instance_branch_equals_its_formula(groups, activation, size):
    config = DecoderConfig(
        classes=3, instances=5, groups=groups, channels=8, depth=2, kernel_dim=4, iam_activation=activation
    )
    module, features = randomised(InstanceBranch(6, config)), maps(6, size)
    got = [part.numpy() for part in run(module, features)]
    for b, x in enumerate(features.numpy()):
        for part, expected in zip(got, instance_branch(Weights(module), x, config), strict=True):
            assert error(part[b], expected) < NORMALISED


SWITCHES = {
    "1x1 activation": {"groups": 2, "iam_kernel": 1},
    "2 convolutions before": {"groups": 2, "iam_depth": 3},
    "no coordinates": {"groups": 1, "coordinates": False},
    "attention": {"groups": 1, "gathering": "cross_attention", "heads": 4},
    "attention of one head": {"groups": 1, "gathering": "cross_attention", "heads": 1},
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_decoders_with_a_part_switched_equal_their_formulas(switch):
    config = DecoderConfig(classes=3, instances=5, channels=8, depth=1, kernel_dim=4, **switch)
    module, features = randomised(Decoder(6, config)), maps(6, (5, 7))
    outputs = run(module, features)
    for b, x in enumerate(features.numpy()):
        for name, value in decoder(Weights(module), x, config).items():
            assert error(outputs[name][b], value) < NORMALISED, name


@pytest.mark.parametrize("config", [EncoderConfig(12, ()), EncoderConfig(12, fusion=False), EncoderConfig(12, (1, 4))])
def test_encoders_with_a_part_switched_equal_their_formulas(config):
    module = randomised(InstanceContextEncoder((3, 5, 7), config))
    pyramid = [maps(c, (3 * k, 5 * k), c) for c, k in ((3, 4), (5, 2), (7, 1))]
    pictures = zip(*(level.numpy() for level in pyramid), strict=True)
    expected = [context_encoder(Weights(module), *picture, config) for picture in pictures]
    assert error(run(module, pyramid), expected) < EXACT


def test_activation_maps_that_are_nowhere_active_pool_little_and_no_infinity():
    """Below a sum of 1e-6 the divisor stays there: what is pooled fades with the activation."""
    config = DecoderConfig(classes=3, instances=2, groups=1, channels=8, depth=1, kernel_dim=4)
    module, features = randomised(InstanceBranch(6, config)), maps(6, (5, 7))
    with torch.no_grad():
        module.iam_conv.weight.zero_()
        module.iam_conv.bias.copy_(torch.tensor([-18.5, -80.0]))  # sums of 3.2e-7 and, in float64, 6e-34
    logits = run(module, features)[0].numpy()
    for b, x in enumerate(features.numpy()):
        expected = instance_branch(Weights(module), x, config)[0]
        assert error(logits[b], expected) < NORMALISED
        assert error(logits[b, 1], module.cls_score.bias.detach()) < NORMALISED
        assert np.abs(logits[b, 0] - logits[b, 1]).max() > 0.01


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("groups", [1, 4])
def test_decoder_and_scores_equal_their_formulas(groups, size):
    config = DecoderConfig(classes=3, instances=5, groups=groups, channels=8, depth=2, kernel_dim=4)
    module, features = randomised(Decoder(6, config)), maps(6, size)
    outputs = run(module, features)
    scores, labels, _ = score(outputs, 0.45)
    for b, x in enumerate(features.numpy()):
        expected = decoder(Weights(module), x, config)
        for name, value in expected.items():
            assert error(outputs[name][b], value) < NORMALISED, name
        classes, masks = sigmoid(expected["pred_logits"]), sigmoid(expected["pred_masks"])
        for n in range(config.instances):
            confidence = np.sqrt(classes[n].max() * sigmoid(expected["pred_scores"][n, 0]))
            inside = masks[n][masks[n] > 0.45]
            assert scores[b, n].item() == pytest.approx(confidence * inside.sum() / (inside.size + 1e-6), rel=1e-5)
            assert labels[b, n] == classes[n].argmax()


def test_the_whole_network_is_backbone_encoder_decoder_under_the_published_names(small_config):
    model = randomised(SparseInst(small_config), seed=3)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs, features = run(model, images), run(model.backbone, images)
    fused = context_encoder(Weights(model, "encoder."), *(x[0].numpy() for x in features))
    for name, value in decoder(Weights(model, "decoder."), fused, small_config.decoder).items():
        assert error(outputs[name][0], value) < NORMALISED, name
