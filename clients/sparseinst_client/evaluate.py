"""COCO mask AP through a server: what its users get, network, transport and all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparseinst_client.client import Client
from sparseinst_client.errors import BadRequest
from sparseinst_runtime.coco import EVALUATION_THRESHOLD, APSummary, mask_ap


def evaluate(
    client: Client, annotations: dict[str, Any], pictures: Iterable[tuple[int, Path]]
) -> tuple[APSummary, list[dict[str, Any]]]:
    """Send every picture as it lies on disk, and hold what comes back against ground truth.

    Args:
        client: of the server; its contract gives the category ids.
        annotations: COCO's instances JSON, as `sparseinst_runtime.coco.ground_truth` gives it.
        pictures: (image id, file), see `sparseinst_runtime.coco.picture_files`.

    Returns:
        The twelve numbers, and the results in COCO's format.

    Raises:
        BadRequest: the server refused a picture; the message names the file.
        SparseInstError: as `Client.segment`.
        ValueError: a picture has another size than the annotations say.
        OSError: a picture cannot be read.
    """
    category_ids = client.contract().category_ids
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in annotations["images"]}
    results: list[dict[str, Any]] = []
    image_ids = []
    for image_id, path in pictures:
        try:
            instances = client.segment(path, score_threshold=EVALUATION_THRESHOLD)
        except BadRequest as error:
            raise BadRequest(f"{path}: {error}") from error
        if instances.image_size != sizes[image_id]:
            (height, width), wanted = instances.image_size, sizes[image_id]
            raise ValueError(f"{path} is {width} x {height} pixels; the annotations say {wanted[1]} x {wanted[0]}")
        image_ids.append(image_id)
        results += instances.to_coco(image_id, category_ids)
    return mask_ap(annotations, results, image_ids), results
