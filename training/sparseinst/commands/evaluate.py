"""`sparseinst evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sparseinst.commands.arguments import device, positive


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="mask AP of weights, with classes, errors and curves",
        description="COCO mask AP, AP of each class, and what kinds of error cost it: of weights, or of results that "
        "anything wrote in COCO's format. docs/evaluation.md tells what the figures mean.",
    )
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="safetensors file of ours")
    what.add_argument("--results", type=Path, help="COCO results to judge instead, of an ONNX graph or a server, say")
    evaluate.add_argument("--annotations", type=Path, required=True, help="COCO JSON with the weights' categories")
    evaluate.add_argument("--images", type=Path, help="folder of the pictures; not needed with --results")
    evaluate.add_argument("--out", type=Path, help="COCO results to write (default: results.json, or in --report)")
    evaluate.add_argument("--report", type=Path, metavar="DIR", help="write results, report.json, report.md and PNGs")
    evaluate.add_argument(
        "--resize",
        choices=("letterbox", "reference"),
        default="letterbox",
        help="letterbox, as served, or the published test rule (default: letterbox)",
    )
    evaluate.add_argument(
        "--short-side", type=positive(int), help="of --resize reference, in pixels (default: the contract's input size)"
    )
    evaluate.add_argument(
        "--class-agnostic",
        action="store_true",
        help="judge all categories as one class, in annotations and results; weights of one class need no option",
    )
    evaluate.add_argument("--batch-size", type=positive(int), default=1, help="pictures at a time (default: 1)")
    evaluate.add_argument(
        "--evaluator",
        choices=("pycocotools", "faster-coco-eval"),
        default="pycocotools",
        help="what computes AP: the reference, or the same figures sooner (default: pycocotools)",
    )
    evaluate.add_argument("--device", help="cuda, cpu, cuda:1 (default: cuda where there is one)")
    evaluate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; prints the twelve numbers and two tables, writes results and report.

    Raises:
        DataError: annotations or pictures cannot be read.
        CheckpointError: the weights cannot be loaded.
        ValueError: arguments or categories that do not go together, results that are none.
        OSError: a file cannot be read or written.
    """
    from rich.console import Console

    from sparseinst.report import assess, evaluator, write_report
    from sparseinst_runtime.coco import as_one_class
    from sparseinst_runtime.files import atomic_write

    if arguments.weights and not arguments.images:
        raise ValueError("--weights without --images; wanted the folder of the pictures")
    if arguments.short_side and arguments.resize != "reference":
        raise ValueError("--short-side goes with --resize reference only; the letterbox has the contract's size")
    judge = evaluator(arguments.evaluator)
    out = arguments.out or (None if arguments.report or arguments.results else Path("results.json"))
    for folder in (out.parent if out else None, arguments.report):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    subject = {"annotations": str(arguments.annotations), "evaluator": arguments.evaluator}
    if arguments.results:
        subject |= {"results": str(arguments.results)}
        truth, results, image_ids = arguments.annotations, _read_results(arguments.results), None
    else:
        short_side = f", short side {arguments.short_side}" if arguments.short_side else ""
        subject |= {"weights": str(arguments.weights), "resize": arguments.resize + short_side}
        truth, results, image_ids = _segment(arguments)
    if out:
        atomic_write(out, json.dumps(results))
    judged = results
    if arguments.class_agnostic:
        subject |= {"classes": "all categories judged as one"}
        truth = as_one_class(truth)
        judged = [{**row, "category_id": truth["categories"][0]["id"]} for row in results]
    report = assess(truth, judged, image_ids, evaluator=judge, subject=subject)
    sys.stdout.write(report.evaluation.summary.text)
    console = Console()
    console.print(report.class_table())
    console.print(report.error_table())
    if arguments.report:
        write_report(report, results, arguments.report)
        sys.stdout.write(f"report in {arguments.report}\n")
    if not arguments.results:
        sys.stdout.write(f"{len(results)} instances in {out or arguments.report / 'results.json'}\n")
    return 0


def _segment(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]], list[int]]:
    """What to hold the weights' results against, the results in COCO's format, and the ids of the pictures."""
    from rich.console import Console
    from rich.progress import track

    from sparseinst.data import CocoInstances, evaluation_files, evaluation_pictures
    from sparseinst.evaluate import in_batches, segment_pictures, torch_engine
    from sparseinst.predict import Predictor
    from sparseinst_runtime.coco import EVALUATION_THRESHOLD, ground_truth

    predictor = Predictor(
        arguments.weights,
        arguments.resize,
        device=device(arguments.device),
        short_side=arguments.short_side,
    )
    category_ids = predictor.contract.category_ids
    dataset = CocoInstances(arguments.annotations, arguments.images, keep_empty=True)
    truth = ground_truth(arguments.annotations, predictor.contract)
    console = Console(stderr=True)
    bar = partial(
        track,
        description="evaluating",
        total=len(dataset),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    if arguments.resize == "letterbox":
        engine = torch_engine(predictor.model, predictor.contract, predictor.device)
        found = segment_pictures(
            engine,
            predictor.contract,
            bar(evaluation_files(dataset)),
            score_threshold=EVALUATION_THRESHOLD,
            batch_size=arguments.batch_size,
        )
    else:  # with the threshold of the published rule
        found = (
            (image_id, instances)
            for batch in in_batches(bar(evaluation_pictures(dataset)), arguments.batch_size)
            for (image_id, _), instances in zip(batch, predictor.batch([image for _, image in batch]), strict=True)
        )
    results = [row for image_id, instances in found for row in instances.to_coco(image_id, category_ids)]
    return truth, results, list(dataset.image_ids)


def _read_results(path: Path) -> list[dict[str, Any]]:
    """COCO results; ValueError in words where the file is something else."""
    wanted = {"image_id", "category_id", "score", "segmentation"}
    try:
        results = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); wanted COCO results") from error
    if not isinstance(results, list) or not all(isinstance(row, dict) and wanted <= row.keys() for row in results):
        raise ValueError(f"{path} holds no COCO results; wanted a list of objects with {', '.join(sorted(wanted))}")
    if not all(isinstance(row["segmentation"], dict) for row in results):
        raise ValueError(f"{path} has segmentations that are no run lengths; wanted size and counts, as COCO's results")
    return results
