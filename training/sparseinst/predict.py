"""Pictures in, instances out: by the published test rule, or by the steps that are served.

    predictor = Predictor("model.safetensors", resize="reference")
    instances = predictor(picture)

Shapes: B batch, N instances of the network, H x W the original picture, h x w the resized one, P x Q the padded one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from sparseinst.checkpoint import load_model
from sparseinst.data.short_side import resize_picture, short_side_size
from sparseinst.evaluate import segment_pictures, torch_engine
from sparseinst.network import class_confidence, normalise, score
from sparseinst_runtime import Contract
from sparseinst_runtime.contract import STRIDE
from sparseinst_runtime.instances import Instances

CLASS_THRESHOLD = 0.005  # confidence that the published rule wants exceeded, before the mask is looked at


class Predictor:
    """Weights of ours as a function of pictures.

    Args:
        path: safetensors file of a training or an import, with its contract inside.
        resize: `letterbox`, as served: fitted into the contract's input, uint8 masks. `reference`, as published:
            short side `short_side`, long side at most 853, each picture padded for itself to multiples of 32.
        device: `cpu`, `cuda`, `cuda:1`.
        short_side: for `reference`; by default the shorter side of the contract's `input_size`.
        score_threshold: instances at or below are dropped, in [0, 1]. By default the contract's for `letterbox`; for
            `reference` 0, since the published rule drops by the confidence before the mask is looked at (0.005).

    Raises:
        CheckpointError: the weights cannot be loaded.
        ContractError: the contract inside does not hold.
        ValueError: another `resize`, or a `short_side` that is not positive or given for `letterbox`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resize: Literal["reference", "letterbox"] = "letterbox",
        *,
        device: str = "cpu",
        short_side: int | None = None,
        score_threshold: float | None = None,
    ) -> None:
        if resize not in ("reference", "letterbox"):
            raise ValueError(f"resize is {resize!r}; wanted reference or letterbox")
        if short_side is not None and (resize == "letterbox" or short_side < 1):
            raise ValueError(
                f"short_side is {short_side} with resize {resize}; wanted a positive one, with reference only"
            )
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold is {score_threshold}; wanted a number in [0, 1]")
        self.model, self.contract = load_model(path)
        self.resize, self.device = resize, device
        self.model.to(device)
        self.short_side = short_side or min(self.contract.input_size)
        self.score_threshold = score_threshold
        self._engine = torch_engine(self.model, self.contract, device)

    def __call__(self, picture: NDArray[np.uint8]) -> Instances:
        """Segment one picture, uint8 RGB [H,W,3]; instances in its own frame, by descending score.

        Raises:
            ValueError: another shape or dtype.
        """
        return self.batch([picture])[0]

    def batch(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Segment pictures of any sizes; what is found in one does not depend on the others.

        Under `reference`, pictures of the same padded size share a forward pass of at most the contract's
        `max_batch_size`; none is padded further for the sake of another, because the network sees coordinates and
        pools over the padded map.

        Raises:
            ValueError: a picture of another shape or dtype.
        """
        for number, picture in enumerate(pictures, start=1):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                raise ValueError(
                    f"picture {number} of {len(pictures)} is {picture.dtype} {picture.shape}; wanted uint8 [H,W,3]"
                )
        if self.resize == "letterbox":
            found = segment_pictures(
                self._engine, self.contract, enumerate(pictures), score_threshold=self.score_threshold
            )
            return [instances for _, instances in found]
        return self._reference(pictures)

    @torch.inference_mode()
    def _reference(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        inputs = [reference_input(picture, self.contract, self.short_side) for picture in pictures]
        passes: dict[tuple[int, int], list[int]] = {}
        for index, (tensor, _) in enumerate(inputs):
            passes.setdefault((tensor.shape[1], tensor.shape[2]), []).append(index)
        found: dict[int, Instances] = {}
        largest = self.contract.max_batch_size
        for same in passes.values():
            for start in range(0, len(same), largest):
                part = same[start : start + largest]
                outputs = self.model(torch.stack([inputs[index][0] for index in part]).to(self.device))
                for row, index in enumerate(part):
                    alone = {name: value[row] for name, value in outputs.items()}
                    scaled, original = inputs[index][1], pictures[index].shape[:2]
                    found[index] = reference_instances(
                        alone,
                        scaled,
                        original,
                        self.contract.mask_threshold,
                        self.score_threshold or 0.0,
                        rescoring=self.model.config.decoder.rescoring,
                    )
        return [found[index] for index in range(len(pictures))]


def reference_input(picture: NDArray[np.uint8], contract: Contract, short_side: int) -> tuple[Tensor, tuple[int, int]]:
    """A picture as the published test feeds it: resized, normalised, then padded with 0.

    Args:
        picture: uint8 RGB [H,W,3].
        contract: its mean and std normalise.
        short_side: in pixels; see `short_side_size` for the other side.

    Returns:
        float32 [3,P,Q], P and Q multiples of 32; and (h, w), what of it is picture.
    """
    height, width = short_side_size(picture.shape[0], picture.shape[1], short_side)
    resized = torch.from_numpy(resize_picture(picture, height, width).copy())
    pixels = normalise(resized[None], contract)[0]
    return F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE)), (height, width)


def reference_instances(
    outputs: dict[str, Tensor],
    scaled: tuple[int, int],
    original: tuple[int, int],
    mask_threshold: float,
    score_threshold: float = 0.0,
    *,
    rescoring: bool = True,
) -> Instances:
    """The published rule from logits to instances: probabilities to the padded input, cropped, to the original size.

    An instance whose confidence does not exceed 0.005, or without a pixel, is dropped; one label for each, no top-k, no
    suppression. The published code does not sort; here the best come first.

    Args:
        outputs: of one picture: `pred_logits` [N,K], `pred_scores` [N,1], `pred_masks` [N,P/4,Q/4].
        scaled: (h, w), what of the padded input is picture.
        original: (H, W) of the picture.
        mask_threshold: probability that a pixel of an instance exceeds.
        score_threshold: instances at or below it are dropped.
        rescoring: of the network, see `DecoderConfig`.
    """
    batched = {name: value[None] for name, value in outputs.items()}
    confidence = class_confidence(batched, rescoring=rescoring)[0][0]
    scores, labels, probabilities = (value[0] for value in score(batched, mask_threshold, rescoring=rescoring))
    padded = (4 * probabilities.shape[1], 4 * probabilities.shape[2])
    wanted = (confidence > CLASS_THRESHOLD) & (scores > score_threshold)
    kept: list[int] = []
    rles = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not wanted[index]:
            continue
        whole = F.interpolate(probabilities[None, index : index + 1], padded, mode="bilinear", align_corners=False)
        part = whole[:, :, : scaled[0], : scaled[1]]
        mask = F.interpolate(part, original, mode="bilinear", align_corners=False)[0, 0] > mask_threshold
        if mask.any():
            kept.append(index)
            rles.append(coco_mask.encode(np.asfortranarray(mask.cpu().numpy(), np.uint8)))
    boxes = coco_mask.toBbox(rles) if rles else np.zeros((0, 4))
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        scores=scores[kept].float().cpu().numpy(),
        labels=labels[kept].int().cpu().numpy(),
        boxes=boxes.astype(np.float32),
        rles=tuple(rle["counts"] for rle in rles),
        image_size=(int(original[0]), int(original[1])),
    )
