"""Evaluation on a COCO dataset, through the very steps that are served: letterbox, scoring, uint8 masks, resize."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from sparseinst.network import ServingModel
from sparseinst_runtime import Contract
from sparseinst_runtime.coco import APSummary, mask_ap
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment

EVALUATION_THRESHOLD = 0.005  # nearly everything: AP needs the tail of the precision-recall curve

Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def torch_engine(model: nn.Module, contract: Contract, device: str = "cpu") -> Engine:
    """The network as a function uint8 [B,S,S,3] -> scores [B,N], labels [B,N], masks [B,N,m,m], all NumPy."""
    serving = ServingModel(model, contract).eval().to(device)

    @torch.inference_mode()
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, labels, masks = serving(torch.from_numpy(images).to(device))
        return scores.cpu().numpy(), labels.cpu().numpy(), masks.cpu().numpy()

    return run


def segment_pictures(
    engine: Engine,
    contract: Contract,
    pictures: Iterable[tuple[int, np.ndarray]],
    *,
    score_threshold: float | None = None,
) -> Iterator[tuple[int, Instances]]:
    """Segment pictures one by one.

    Args:
        engine: the network with the contract's inputs and outputs, batched; see `torch_engine`.
        contract: of the engine.
        pictures: (image id, uint8 RGB [H,W,3]).
        score_threshold: by default the contract's.

    Yields:
        (image id, instances in the picture's own frame).
    """
    threshold = contract.score_threshold if score_threshold is None else score_threshold
    for image_id, picture in pictures:
        letterbox = Letterbox.fit(picture.shape[0], picture.shape[1], contract.input_size)
        scores, labels, masks = engine(letterbox.apply(picture, contract.pad_colour)[None])
        yield (
            image_id,
            segment(
                scores[0],
                labels[0],
                masks[0],
                letterbox,
                score_threshold=threshold,
                mask_threshold=contract.mask_threshold,
            ),
        )


def evaluate(
    engine: Engine, contract: Contract, annotations: str | dict[str, Any], pictures: Iterable[tuple[int, np.ndarray]]
) -> tuple[APSummary, list[dict[str, Any]]]:
    """COCO mask AP of an engine.

    Returns:
        The twelve numbers, and the results in COCO's format.
    """
    results: list[dict[str, Any]] = []
    image_ids = []
    for image_id, instances in segment_pictures(engine, contract, pictures, score_threshold=EVALUATION_THRESHOLD):
        image_ids.append(image_id)
        results += instances.to_coco(image_id, contract.category_ids)
    return mask_ap(annotations, results, image_ids), results
