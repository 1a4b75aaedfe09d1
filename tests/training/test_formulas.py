"""Encoder, decoder and scoring held against float64 NumPy versions of the published formulas.

The NumPy side was written from a description of the published model, works on one picture at a time and reads its
weights by their published names. Maps are [C,h,w].
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from sparseinst.network import DecoderConfig, EncoderConfig, SparseInst, score
from sparseinst.network.decoder import Decoder, InstanceBranch, MaskBranch
from sparseinst.network.encoder import InstanceContextEncoder, PyramidPooling

# Largest error allowed. What pooling averages with are float32 fractions, and activation maps are summed and divided in
# float32, whatever the dtype around them.
EXACT, POOLED, NORMALISED = 1e-9, 1e-7, 3e-6
SIZES = [(5, 7), (12, 20), (1, 1), (9, 1), (1, 6)]


class Weights:
    """The tensors of a module below a name, as float64 arrays."""

    def __init__(self, module: nn.Module, prefix: str = "") -> None:
        self.tensors = {name: value.double().numpy() for name, value in module.state_dict().items()}
        self.prefix = prefix

    def below(self, name: str) -> Weights:
        """The same tensors, read under another name."""
        part = object.__new__(Weights)
        part.tensors, part.prefix = self.tensors, f"{self.prefix}{name}."
        return part

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[self.prefix + name]

    def conv(self, name: str, x: np.ndarray, groups: int = 1) -> np.ndarray:
        """A convolution of stride 1 that keeps the size: each tap weighs the shifted, zero-padded map."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        outputs, side, (height, width) = len(weight), weight.shape[-1], x.shape[1:]
        edge = side // 2
        padded = np.zeros((len(x), height + 2 * edge, width + 2 * edge))
        padded[:, edge : edge + height, edge : edge + width] = x
        result = np.zeros((outputs, height, width))
        for g in range(groups):
            ours = slice(g * outputs // groups, (g + 1) * outputs // groups)
            theirs = slice(g * len(x) // groups, (g + 1) * len(x) // groups)
            for i, j in product(range(side), repeat=2):
                shifted = padded[theirs, i : i + height, j : j + width]
                result[ours] += np.tensordot(weight[ours, :, i, j], shifted, axes=1)
        return result + bias[:, None, None]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bilinear(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolation between cell centres (align_corners False); beyond the outer centres the outer cell."""

    def along(cells: int, target: int) -> list[tuple[int, int, float]]:
        places = [min(max((i + 0.5) * cells / target - 0.5, 0), cells - 1) for i in range(target)]
        return [(int(p), min(int(p) + 1, cells - 1), p - int(p)) for p in places]

    result = np.empty((len(x), height, width))
    for (i, (top, bottom, v)), (j, (left, right, u)) in product(
        enumerate(along(x.shape[1], height)), enumerate(along(x.shape[2], width))
    ):
        upper = (1 - u) * x[:, top, left] + u * x[:, top, right]
        lower = (1 - u) * x[:, bottom, left] + u * x[:, bottom, right]
        result[:, i, j] = (1 - v) * upper + v * lower
    return result


def adaptive_average(x: np.ndarray, bins: int) -> np.ndarray:
    """Bin i of n cells spans from floor(i n / bins) up to, not including, ceil((i + 1) n / bins)."""
    edges = [
        [(int(np.floor(i * n / bins)), int(np.ceil((i + 1) * n / bins))) for i in range(bins)] for n in x.shape[1:]
    ]
    return np.array([[x[:, a:b, c:d].mean((1, 2)) for c, d in edges[1]] for a, b in edges[0]]).transpose(2, 0, 1)


def pyramid_pooling(w: Weights, x: np.ndarray, pool_sizes=(1, 2, 3, 6)) -> np.ndarray:
    priors = [
        bilinear(relu(w.conv(f"stages.{k}.1", adaptive_average(x, bins))), *x.shape[1:])
        for k, bins in enumerate(pool_sizes)
    ]
    return relu(w.conv("bottleneck", np.concatenate([*priors, x])))


def context_encoder(w: Weights, c3: np.ndarray, c4: np.ndarray, c5: np.ndarray) -> np.ndarray:
    def doubled(x: np.ndarray) -> np.ndarray:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    top = pyramid_pooling(w.below("ppm"), w.conv("fpn_laterals.0", c5))
    middle = w.conv("fpn_laterals.1", c4) + doubled(top)
    bottom = w.conv("fpn_laterals.2", c3) + doubled(middle)
    p5, p4, p3 = (w.conv(f"fpn_outputs.{k}", x) for k, x in enumerate((top, middle, bottom)))
    size = p3.shape[1:]
    return w.conv("fusion", np.concatenate([p3, bilinear(p4, *size), bilinear(p5, *size)]))


def with_coordinates(x: np.ndarray) -> np.ndarray:
    """X, then y, then the features; a map of one column or row lies at -1."""
    _, height, width = x.shape
    columns = [-1 + 2 * i / max(width - 1, 1) for i in range(width)]
    rows = [-1 + 2 * i / max(height - 1, 1) for i in range(height)]
    return np.concatenate([np.tile(columns, (height, 1))[None], np.tile(rows, (width, 1)).T[None], x])


def conv_stack(w: Weights, name: str, x: np.ndarray, depth: int) -> np.ndarray:
    for k in range(depth):
        x = relu(w.conv(f"{name}.{2 * k}", x))
    return x


def instance_branch(w: Weights, x: np.ndarray, config: DecoderConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features = conv_stack(w, "inst_convs", x, config.depth)
    cells = features.reshape(config.channels, -1)  # [C,hw]
    logits = w.conv("iam_conv", features, config.groups).reshape(-1, cells.shape[1])  # [G*N,hw]
    if config.iam_activation == "softmax":
        shifted = logits + w["softmax_bias"]
        weights = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    else:
        activations = sigmoid(logits)
        weights = activations / np.maximum(activations.sum(1, keepdims=True), 1e-6)
    pooled = weights @ cells.T
    if config.groups > 1:  # map g*N+n is group g of instance n
        n = config.instances
        joined = [np.concatenate([pooled[g * n + i] for g in range(config.groups)]) for i in range(n)]
        pooled = relu(w.linear("fc", np.array(joined)))
    return w.linear("cls_score", pooled), w.linear("mask_kernel", pooled), w.linear("objectness", pooled)


def mask_branch(w: Weights, x: np.ndarray, config: DecoderConfig) -> np.ndarray:
    return w.conv("projection", conv_stack(w, "mask_convs", x, config.depth))


def decoder(w: Weights, x: np.ndarray, config: DecoderConfig) -> dict[str, np.ndarray]:
    x = with_coordinates(x)
    logits, kernels, objectness = instance_branch(w.below("inst_branch"), x, config)
    masks = np.tensordot(kernels, mask_branch(w.below("mask_branch"), x, config), axes=1)
    masks = bilinear(masks, 2 * x.shape[1], 2 * x.shape[2])
    return {"pred_logits": logits, "pred_scores": objectness, "pred_masks": masks}


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
    assert error(run(module, features), expected) < POOLED


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (3, 5), (5, 7)])
def test_the_context_encoder_equals_its_formula(height, width):
    module = randomised(InstanceContextEncoder((3, 5, 7), EncoderConfig(12)))
    c3, c4, c5 = (maps(c, (k * height, k * width), c) for c, k in ((3, 4), (5, 2), (7, 1)))
    pictures = zip(c3.numpy(), c4.numpy(), c5.numpy(), strict=True)
    expected = [context_encoder(Weights(module), *picture) for picture in pictures]
    assert min(x.min() for x in expected) < -0.1  # there is no activation behind the fusion
    assert error(run(module, [c3, c4, c5]), expected) < POOLED


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
