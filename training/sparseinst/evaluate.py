"""Evaluation on a COCO dataset, through the very steps that are served: decoding, letterbox, scoring, uint8 masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.progress import track

from sparseinst.data import CocoInstances, evaluation_files
from sparseinst.network import ServingModel, SparseInst
from sparseinst_runtime import Contract
from sparseinst_runtime.coco import EVALUATION_THRESHOLD, APSummary, ground_truth, mask_ap
from sparseinst_runtime.decode import decode_letterboxed
from sparseinst_runtime.files import atomic_write
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import PictureError
from sparseinst_runtime.masks import segment

T = TypeVar("T")
Engine = Callable[[np.ndarray], tuple[np.ndarray, ...]]  # scores, labels, masks
Picture = bytes | np.ndarray  # an encoded file, or uint8 RGB [H,W,3]


def torch_engine(model: SparseInst, contract: Contract, device: str = "cpu") -> Engine:
    """The network as a function uint8 [B,H,W,3] -> scores [B,N], labels [B,N], masks [B,N,mh,mw], all NumPy."""
    serving = ServingModel(model, contract).eval().to(device)

    @torch.inference_mode()
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, labels, masks = serving(torch.from_numpy(images).to(device))
        return scores.cpu().numpy(), labels.cpu().numpy(), masks.cpu().numpy()

    return run


def segment_pictures(
    engine: Engine,
    contract: Contract,
    pictures: Iterable[tuple[int, Picture]],
    *,
    score_threshold: float | None = None,
    batch_size: int = 1,
) -> Iterator[tuple[int, Instances]]:
    """Segment pictures, by default one by one.

    Args:
        engine: the network with the contract's inputs and outputs, batched; see `torch_engine`.
        contract: of the engine.
        pictures: (image id, encoded file or pixels). What is served, and so what is to be judged, are files: see
            `decode_letterboxed`.
        score_threshold: by default the contract's.
        batch_size: pictures for one run of the engine, at least 1; the last run may have fewer.

    Yields:
        (image id, instances in the picture's own frame).

    Raises:
        PictureError: a file that cannot be decoded; the message names the image id.
    """
    threshold = contract.score_threshold if score_threshold is None else score_threshold
    for batch in in_batches(pictures, batch_size):
        images, boxes = zip(*[_letterboxed(image_id, picture, contract) for image_id, picture in batch], strict=True)
        for (image_id, _), box, scores, labels, masks in zip(batch, boxes, *engine(np.stack(images)), strict=True):
            yield (
                image_id,
                segment(scores, labels, masks, box, score_threshold=threshold, mask_threshold=contract.mask_threshold),
            )


def _letterboxed(image_id: int, picture: Picture, contract: Contract) -> tuple[np.ndarray, Letterbox]:
    if isinstance(picture, bytes):
        try:
            return decode_letterboxed(picture, contract.input_size, contract.pad_colour)
        except PictureError as error:
            raise PictureError(f"picture {image_id}: {error}") from error
    letterbox = Letterbox.fit(picture.shape[0], picture.shape[1], contract.input_size)
    return letterbox.apply(picture, contract.pad_colour), letterbox


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, at least 1; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def evaluate(
    engine: Engine, contract: Contract, annotations: str | dict[str, Any], pictures: Iterable[tuple[int, Picture]]
) -> tuple[APSummary, list[dict[str, Any]]]:
    """COCO mask AP of an engine; see `segment_pictures`.

    Returns:
        The twelve numbers, and the results in COCO's format.

    Raises:
        ValueError: the annotations have categories that the contract has not; see `ground_truth`.
    """
    truth = ground_truth(annotations, contract)
    results: list[dict[str, Any]] = []
    image_ids = []
    for image_id, instances in segment_pictures(engine, contract, pictures, score_threshold=EVALUATION_THRESHOLD):
        image_ids.append(image_id)
        results += instances.to_coco(image_id, contract.category_ids)
    return mask_ap(truth, results, image_ids), results


def evaluate_files(engine: Engine, contract: Contract, annotations: Path, images: Path, out: Path) -> str:
    """COCO mask AP of an engine over a dataset on disk, with a progress bar on the terminal.

    Args:
        engine: see `evaluate`.
        contract: of the engine.
        annotations: COCO's instances JSON.
        images: folder of its pictures.
        out: file for the results in COCO's format; its folder is made where it is missing.

    Returns:
        The twelve lines of pycocotools and one about `out`.

    Raises:
        DataError: annotations or pictures cannot be read.
        ValueError: the annotations have categories that the contract has not.
        OSError: `out` cannot be written.
    """
    dataset = CocoInstances(annotations, images, keep_empty=True)
    truth = ground_truth(annotations, contract)
    out.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    pictures = track(evaluation_files(dataset), "evaluating", total=len(dataset))
    summary, results = evaluate(engine, contract, truth, pictures)
    atomic_write(out, json.dumps(results))
    return f"{summary.text}{len(results)} instances in {out}\n"
