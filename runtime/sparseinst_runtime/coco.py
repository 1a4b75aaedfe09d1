"""COCO's instances JSON for whoever evaluates: which pictures to segment, and mask AP by pycocotools as a value.

Nothing is printed and nothing that was handed in is changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparseinst_runtime.contract import OBJECT, Contract

EVALUATION_THRESHOLD = 0.005  # nearly everything: AP needs the tail of the precision-recall curve

Annotations: TypeAlias = "dict[str, Any] | str | os.PathLike[str]"


@dataclass(frozen=True)
class Evaluator:
    """An implementation of COCO's evaluation, with the interface of pycocotools.

    Attributes:
        name: for people.
        index: class or function that gives an empty `COCO`.
        evaluation: class or function that takes truth, results and `iouType` and gives a `COCOeval`.
    """

    name: str
    index: Callable[[], Any]
    evaluation: Callable[..., Any]


PYCOCOTOOLS = Evaluator("pycocotools", COCO, COCOeval)


@dataclass(frozen=True)
class APSummary:
    """COCO's twelve numbers, each in 0..1, or -1 where the ground truth has nothing of the kind.

    `text` holds the same as the twelve lines that pycocotools prints.
    """

    text: str
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def as_dict(self) -> dict[str, float]:
        """The twelve numbers by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "text"}


@dataclass(frozen=True, eq=False)
class MaskEvaluation:
    """COCO's evaluation in full, over all areas and up to 100 instances for each picture and class.

    Attributes:
        summary: the twelve numbers.
        category_ids: C category ids, ascending.
        precision: float64 [10, 101, C], by IoU threshold .50, .55, ... .95 and recall 0, .01, ... 1; -1 throughout for
            a class without ground truth.
        recall: float64 [10, C], the greatest that is reached; -1 as above.
    """

    summary: APSummary
    category_ids: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def read_annotations(annotations: Annotations) -> dict[str, Any]:
    """COCO's instances JSON from a file; what is read already is only checked.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or lacks one of the lists `images`, `annotations` and `categories`.
    """
    dataset: Any = annotations
    if not isinstance(annotations, dict):
        try:
            dataset = json.loads(Path(annotations).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{annotations} is not JSON ({error}); wanted COCO's instances JSON") from error
    wanted = {"images", "annotations", "categories"}
    missing = wanted - dataset.keys() if isinstance(dataset, dict) else wanted
    if missing:
        raise ValueError(f"the annotations lack {sorted(missing)}; wanted COCO's instances JSON")
    return cast("dict[str, Any]", dataset)


def picture_files(annotations: Annotations, images: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The pictures of a COCO dataset: (image id, file), in the order of the JSON.

    Args:
        annotations: COCO's instances JSON, read or as a path.
        images: folder that the `file_name`s are relative to.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, names no picture, or a picture has no file.
    """
    rows = read_annotations(annotations)["images"]
    try:
        pictures = [(row["id"], Path(images, row["file_name"])) for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError("an entry of the annotations' 'images' lacks id or file_name; wanted both") from error
    if not pictures:
        raise ValueError("the annotations name no pictures; wanted at least one in 'images'")
    missing = [path for _, path in pictures if not path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pictures)} pictures of the annotations are missing, first {missing[0]}; "
            "check the images folder"
        )
    return pictures


def check_categories(annotations: Annotations, category_ids: Iterable[int]) -> None:
    """Raise ValueError where the annotations have categories besides `category_ids`, those of a contract."""
    unknown = {category["id"] for category in read_annotations(annotations)["categories"]} - set(category_ids)
    if unknown:
        raise ValueError(f"the annotations have categories {sorted(unknown)} that the weights do not; same dataset?")


def ground_truth(annotations: Annotations, contract: Contract) -> dict[str, Any]:
    """What the results of a contract's network are held against.

    These are the annotations as they are; for a class-agnostic contract, those with all categories made its only one.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, or has categories that the contract has not.
    """
    dataset = read_annotations(annotations)
    if not contract.class_agnostic:
        check_categories(dataset, contract.category_ids)
        return dataset
    return as_one_class(dataset, contract.category_ids[0])


def as_one_class(annotations: Annotations, category_id: int = 1) -> dict[str, Any]:
    """The annotations with all categories made one, `object`.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON.
    """
    dataset = read_annotations(annotations)
    return {
        **dataset,
        "annotations": [{**annotation, "category_id": category_id} for annotation in dataset["annotations"]],
        "categories": [{"id": category_id, "name": OBJECT}],
    }


def mask_ap(
    annotations: Annotations,
    results: list[dict[str, Any]],
    image_ids: Iterable[int] | None = None,
) -> APSummary:
    """Hold instances against ground truth by COCO's rules; the twelve numbers of `evaluate_masks`."""
    return evaluate_masks(annotations, results, image_ids).summary


def evaluate_masks(
    annotations: Annotations,
    results: list[dict[str, Any]],
    image_ids: Iterable[int] | None = None,
    *,
    evaluator: Evaluator = PYCOCOTOOLS,
) -> MaskEvaluation:
    """Hold instances against ground truth by COCO's rules.

    Whether a result is small, medium or large is said by its mask, whatever `bbox` it brings along.

    Args:
        annotations: COCO's instances JSON, read or as a path; segmentations may be polygons or run lengths.
        results: COCO's results format with `segmentation`, as `Instances.to_coco` gives; may be empty.
        image_ids: judge these pictures only; None judges all of the annotations, also those without a result.
        evaluator: the implementation that computes.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, or results or `image_ids` name pictures that it does not know.
    """
    dataset = read_annotations(annotations)
    wanted = judged_pictures(dataset, results, image_ids)
    # pycocotools takes the area from `bbox` where there is one: the box's instead of the mask's.
    masks = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        truth = index_annotations(dataset, dataset["annotations"], evaluator)
        found = truth.loadRes(masks) if masks else index_annotations(dataset, [], evaluator)
        evaluation = evaluator.evaluation(truth, found, iouType="segm")
        evaluation.params.imgIds = wanted
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(printed.seek(0))  # the progress before; what follows are the lines of the summary
        evaluation.summarize()
    text = "".join(printed.getvalue().splitlines(keepends=True)[:12])
    return MaskEvaluation(
        summary=APSummary(text, *map(float, evaluation.stats[:12])),
        category_ids=tuple(map(int, evaluation.params.catIds)),
        precision=np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1],
        recall=np.asarray(evaluation.eval["recall"])[:, :, 0, -1],
    )


def judged_pictures(
    dataset: dict[str, Any], results: list[dict[str, Any]], image_ids: Iterable[int] | None = None
) -> list[int]:
    """Ids of the pictures to judge, ascending: `image_ids`, or all; ValueError where an id is not in the dataset."""
    known = {image["id"] for image in dataset["images"]}
    wanted = known if image_ids is None else set(image_ids)
    strangers = (wanted | {result["image_id"] for result in results}) - known
    if strangers:
        raise ValueError(f"no such pictures in the annotations: ids {sorted(strangers)[:5]}; wrong annotation file?")
    return sorted(wanted)


def index_annotations(
    dataset: dict[str, Any], annotations: list[dict[str, Any]], evaluator: Evaluator = PYCOCOTOOLS
) -> Any:  # a COCO of the evaluator's
    """A COCO object of copies, since pycocotools writes into annotations.

    Ids count from 1, since pycocotools reads 0 as no match; an `area` that is missing is counted from the mask.
    """
    coco = evaluator.index()
    copies = [{"iscrowd": 0, **annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]
    coco.dataset = {"info": {}, "licenses": [], **dataset, "annotations": copies}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for annotation in copies:
        if annotation.get("area") is None:
            annotation["area"] = float(coco_mask.area(coco.annToRLE(annotation)))
    return coco
