"""Instance activation maps of a network, read while it runs and brought into the picture's own frame.

The network is not changed: a forward hook listens to `iam_conv` for one call and is removed again.

Shapes: B batch, G groups, N queries (instances of the network), h x w cells at stride 8, H x W the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sparseinst.evaluate import torch_engine
from sparseinst.network import DecoderConfig, SparseInst
from sparseinst.network.decoder import activation_weights
from sparseinst_runtime import Contract
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment


class FigureError(ValueError):
    """A figure that cannot be drawn; the message says what was got and what was wanted."""


@dataclass(frozen=True)
class Found:
    """One instance and the query that gave it.

    Attributes:
        query: 0..N-1.
        instance: of length 1, in the picture's own frame.
    """

    query: int
    instance: Instances

    @property
    def score(self) -> float:
        """In 0..1."""
        return float(self.instance.scores[0])

    @property
    def label(self) -> int:
        """Index into the contract's classes."""
        return int(self.instance.labels[0])


@dataclass(frozen=True, eq=False)
class Observation:
    """What a network found in one picture, and the activation maps it found it by.

    Attributes:
        found: by descending score, as the server would answer.
        maps: float32 [G,N,h,w] over the letterboxed square, each of sum 1; see `weights`.
        letterbox: how the picture lies in that square.
    """

    found: list[Found]
    maps: Tensor
    letterbox: Letterbox


Observer = Callable[[NDArray[np.uint8]], Observation]


@contextmanager
def listening(model: SparseInst) -> Iterator[list[Tensor]]:
    """A list that gets the activation logits [B,G*N,h,w] of every forward pass inside the block.

    Raises:
        FigureError: the network has no instance activation maps, as one whose decoder attends in their place.
    """
    conv = getattr(model.decoder.inst_branch, "iam_conv", None)
    if not isinstance(conv, nn.Module):
        raise FigureError(
            "this network has no instance activation maps (no iam_conv in its decoder); wanted weights of one that "
            "has, while `sparseinst figures grid` draws the results of any"
        )
    heard: list[Tensor] = []

    def hear(_module: nn.Module, _inputs: Any, logits: Tensor) -> None:
        heard.append(logits.detach())

    hook = conv.register_forward_hook(hear)
    try:
        yield heard
    finally:
        hook.remove()


def weights(logits: Tensor, config: DecoderConfig) -> Tensor:
    """Activation logits to the weights that the decoder averages features with: the normalised maps of the paper.

    Args:
        logits: [B,G*N,h,w]; channel g*N+n is group g of query n.
        config: its `iam_activation`, `groups` and `instances` are used.

    Returns:
        float32 [B,G,N,h,w], not negative; each map sums to 1, or to less where it is dark everywhere.
    """
    height, width = logits.shape[2:]
    flat = activation_weights(logits, config.iam_activation)
    return flat.view(-1, config.groups, config.instances, height, width)


def observer(
    model: SparseInst, contract: Contract, device: str = "cpu", score_threshold: float | None = None
) -> Observer:
    """A function of pictures, uint8 RGB [H,W,3], through the very steps that are served.

    Args:
        model: a network with an IAM decoder; moved to `device`.
        contract: of the network.
        device: where it runs; what is observed comes back to the CPU.
        score_threshold: instances at or below are not found, in [0, 1]; by default the contract's.

    Raises:
        FigureError: the network has no instance activation maps.
        ValueError: a threshold out of range.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold is {score_threshold}; wanted a number in [0, 1]")
    with listening(model):  # the sentence now, not after minutes of work
        engine = torch_engine(model, contract, device)
    threshold = contract.score_threshold if score_threshold is None else score_threshold

    def observe(picture: NDArray[np.uint8]) -> Observation:
        letterbox = Letterbox.fit(picture.shape[0], picture.shape[1], contract.input_size)
        with listening(model) as heard:
            scores, labels, masks = (part[0] for part in engine(letterbox.apply(picture, contract.pad_colour)[None]))
        # Numbered queries in place of labels: what comes back says which query each instance is from.
        queries = np.arange(len(scores), dtype=np.int32)
        together = segment(
            scores, queries, masks, letterbox, score_threshold=threshold, mask_threshold=contract.mask_threshold
        )
        found = [_found(together, index, labels) for index in range(len(together))]
        return Observation(found, weights(heard[0], model.config.decoder)[0].cpu(), letterbox)

    return observe


def _found(together: Instances, index: int, labels: NDArray[np.int32]) -> Found:
    """One of several instances that have their query's number in place of a label; `labels` [N] are the queries'."""
    one, query = slice(index, index + 1), int(together.labels[index])
    instance = Instances(
        together.scores[one],
        labels[query : query + 1],
        together.boxes[one],
        together.rles[one],
        together.image_size,
    )
    return Found(query, instance)


def to_picture(maps: Tensor, letterbox: Letterbox) -> NDArray[np.float32]:
    """Maps over the letterboxed frame, as seen from every pixel of the picture.

    Bilinear, at the centre of each pixel, as masks are brought into the picture's frame: padding is left out, also
    where the picture ends inside a cell.

    Args:
        maps: [M,h,w] over the whole frame.
        letterbox: how the picture lies in it.

    Returns:
        float32 [M,H,W].
    """
    x = (torch.arange(letterbox.width) + 0.5) * (letterbox.scaled_width / letterbox.width)
    y = (torch.arange(letterbox.height) + 0.5) * (letterbox.scaled_height / letterbox.height)
    # grid_sample's coordinates: -1 and 1 are the outer edges of the frame
    height, width = letterbox.size
    rows, columns = torch.meshgrid(2 * y / height - 1, 2 * x / width - 1, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    sampled = F.grid_sample(maps[None].float(), grid, "bilinear", padding_mode="border", align_corners=False)[0]
    return np.asarray(sampled.numpy(), np.float32)


def stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 0..1 from the lowest to the highest value of the array, for drawing; 0 where all are equal."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
