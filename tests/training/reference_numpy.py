"""The published formulas of encoder and decoder in float64 NumPy, written out, for tests to hold the network against.

Written from a description of the published model and not from the network's code. One picture at a time, maps [C,h,w];
weights are read by their published names.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from torch import nn

from sparseinst.network import DecoderConfig, EncoderConfig

PUBLISHED = EncoderConfig()


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


def pyramid_pooling(w: Weights, x: np.ndarray, pool_sizes=PUBLISHED.pool_sizes) -> np.ndarray:
    priors = [
        bilinear(relu(w.conv(f"stages.{k}.1", adaptive_average(x, bins))), *x.shape[1:])
        for k, bins in enumerate(pool_sizes)
    ]
    return relu(w.conv("bottleneck", np.concatenate([*priors, x])))


def context_encoder(w: Weights, c3: np.ndarray, c4: np.ndarray, c5: np.ndarray, config=PUBLISHED) -> np.ndarray:
    def doubled(x: np.ndarray) -> np.ndarray:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    top = w.conv("fpn_laterals.0", c5)
    if config.pool_sizes:
        top = pyramid_pooling(w.below("ppm"), top, config.pool_sizes)
    middle = w.conv("fpn_laterals.1", c4) + doubled(top)
    bottom = w.conv("fpn_laterals.2", c3) + doubled(middle)
    if not config.fusion:
        return w.conv("fpn_outputs.0", bottom)
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
    pooled = (
        attended(w, features, config) if config.gathering == "cross_attention" else pooled_by_maps(w, features, config)
    )
    return w.linear("cls_score", pooled), w.linear("mask_kernel", pooled), w.linear("objectness", pooled)


def pooled_by_maps(w: Weights, features: np.ndarray, config: DecoderConfig) -> np.ndarray:
    cells = features.reshape(config.channels, -1)  # [C,hw]
    name = "iam_conv"
    if config.iam_depth > 1:
        features, name = (
            conv_stack(w, "iam_conv", features, config.iam_depth - 1),
            f"iam_conv.{2 * config.iam_depth - 2}",
        )
    logits = w.conv(name, features, config.groups).reshape(-1, cells.shape[1])  # [G*N,hw]
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
    return pooled


def attended(w: Weights, features: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """Each head attends with its own part of the channels: softmax(q k / sqrt(length)) v."""
    w = w.below("cross_attention")
    cells, projection = features.reshape(config.channels, -1).T, w["attention.in_proj_weight"]
    inputs = [w["queries"], cells, cells]
    thirds = zip(inputs, np.split(projection, 3), np.split(w["attention.in_proj_bias"], 3), strict=True)
    q, k, v = (np.split(x @ weight.T + bias, config.heads, axis=1) for x, weight, bias in thirds)
    heads = []
    for query, key, value in zip(q, k, v, strict=True):
        likeness = np.exp(query @ key.T / np.sqrt(query.shape[1]))
        heads.append(likeness / likeness.sum(1, keepdims=True) @ value)
    return w.linear("attention.out_proj", np.concatenate(heads, axis=1))


def mask_branch(w: Weights, x: np.ndarray, config: DecoderConfig) -> np.ndarray:
    return w.conv("projection", conv_stack(w, "mask_convs", x, config.depth))


def decoder(w: Weights, x: np.ndarray, config: DecoderConfig) -> dict[str, np.ndarray]:
    x = with_coordinates(x) if config.coordinates else x
    logits, kernels, objectness = instance_branch(w.below("inst_branch"), x, config)
    masks = np.tensordot(kernels, mask_branch(w.below("mask_branch"), x, config), axes=1)
    masks = bilinear(masks, 2 * x.shape[1], 2 * x.shape[2])
    return {"pred_logits": logits, "pred_scores": objectness, "pred_masks": masks}
