"""`sparseinst-export verify`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say

DESCRIPTION = """\
Prove that everything that serves a network answers what PyTorch answers, on pictures with ground truth.

The same pictures go through PyTorch, which counts as right, and through every engine that runs here: ONNX Runtime,
OpenVINO, and TensorRT where the package `tensorrt`, a GPU and --plan are there (not verified on a GPU). --served takes
what any server answered for these pictures, over gRPC or HTTP, from `sparseinst-client evaluate --out results.json`.

DIR gets verify.md, verify.json and worst.png. The exit status is 0 where every figure is within tolerance, 1 where one
is not; each of those is named. Graphs in int8 and fp8 are held to AP 0.005, labels 0.95, mask IoU 0.95, score error
0.25 and mask share 0.1. Needs the extra `export`.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    verify = commands.add_parser(
        "verify",
        help="every engine, and what was served, against PyTorch",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("--weights", type=Path, required=True, metavar="W", help="safetensors file of a training")
    verify.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="their exported graph")
    verify.add_argument("--plan", type=Path, metavar="P", help="TensorRT engine of the same graph")
    verify.add_argument("--served", type=Path, metavar="JSON", help="COCO results that a server answered")
    verify.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    verify.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    verify.add_argument("--limit", type=_positive, metavar="N", help="the first N pictures only (all)")
    verify.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    verify.add_argument(
        "--engine",
        action="append",
        choices=("onnxruntime", "openvino", "tensorrt"),
        help="run this one, and fail where it cannot; may be repeated (all that can run)",
    )
    verify.add_argument(
        "--served-engine",
        choices=("onnxruntime", "openvino", "tensorrt"),
        default="openvino",
        help="what the server runs: --served is held against this engine here, too (%(default)s)",
    )
    verify.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8", "fp8"),
        help="whose tolerances the graph's raw outputs are held to (what the graph says, else fp32)",
    )
    allowed = verify.add_argument_group("tolerances")
    allowed.add_argument("--ap-difference", type=_fraction, metavar="D", help="of the mask AP, at most (0.002)")
    allowed.add_argument("--label-agreement", type=_fraction, metavar="A", help="share of instances, at least (0.995)")
    allowed.add_argument("--mask-iou", type=_fraction, metavar="I", help="median, at least (0.99)")
    allowed.add_argument(
        "--score-error",
        type=_fraction,
        metavar="E",
        help="of raw scores, beyond what pixels at the mask threshold move, at most (fp32 1e-4, fp16, TensorRT 5e-2)",
    )
    allowed.add_argument(
        "--mask-share",
        type=_fraction,
        metavar="S",
        help="of raw mask values that differ by more than 1/255, at most (fp32 1e-4, fp16, TensorRT 2e-2)",
    )
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the engines, write the report, say what is out of tolerance."""
    from dataclasses import replace

    from sparseinst import load_model
    from sparseinst.data import CocoInstances
    from sparseinst.evaluate import torch_engine
    from sparseinst_export import verification as lab
    from sparseinst_export.agreement import served_answers
    from sparseinst_export.available import NAMES, TENSORRT, load_engines
    from sparseinst_export.onnx import contract_in, load_graph
    from sparseinst_export.report import describe, graph_properties, write_report
    from sparseinst_runtime.coco import ground_truth

    model, contract = load_model(options.weights)
    contract = contract_in(options.onnx, contract)
    graph = load_graph(options.onnx, contract)
    precision = options.precision or graph_properties(graph).get("precision", "fp32")
    if precision not in lab.PRECISIONS:
        known = ", ".join(lab.PRECISIONS)
        raise ValueError(f"the graph says its precision is {precision}; give --precision, one of {known}")
    dataset = CocoInstances(options.annotations, options.images, keep_empty=True)
    truth = ground_truth(options.annotations, contract)
    served = None
    if options.served is not None:
        all_sizes = {row["id"]: (row["height"], row["width"]) for row in truth["images"]}
        sizes = {image_id: all_sizes[image_id] for image_id in dataset.image_ids[: options.limit]}
        served = served_answers(_read_json(options.served), sizes, all_sizes.keys(), contract)
    available = load_engines(graph, options.plan, contract, options.engine)
    options.out.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work

    given = {
        "ap": options.ap_difference,
        "labels": options.label_agreement,
        "iou": options.mask_iou,
        "score": options.score_error,
        "mask_share": options.mask_share,
    }
    tolerances = {name: lab.with_options(lab.PRECISIONS[precision], **given) for name in (*NAMES, lab.SERVED)}
    if precision == "fp32":  # TensorRT multiplies in TF32
        tolerances[TENSORRT] = lab.with_options(lab.PRECISIONS["fp16"], **given)
    found = lab.verify_engines(
        torch_engine(model, contract),
        available.engines,
        contract,
        dataset,
        truth,
        tolerances=tolerances,
        served=served,
        served_kind=options.served_engine,
        limit=options.limit,
    )
    found = replace(found, broken=available.broken | found.broken)
    files = {"weights": options.weights, "graph": options.onnx, "annotations": options.annotations}
    files |= {"plan": options.plan} if options.plan else {}
    files |= {"served results": options.served} if options.served else {}
    subject = describe(files, graph, contract, available.left_out, precision)
    file_names = {row["id"]: row["file_name"] for row in truth["images"]}
    write_report(found, subject, dataset=dataset, file_names=file_names, classes=contract.classes, out=options.out)

    for name, why in available.left_out.items():
        say(f"{name} was left out: {why}")
    for comparison in found.comparisons:
        say(str(comparison))
    verdict = f"{len(found.failures)} out of tolerance" if found.failures else "all within tolerance"
    say(f"{found.pictures} pictures, {verdict}: {options.out / 'verify.md'}")
    for sentence in found.failures:
        sys.stderr.write(f"sparseinst-export: {sentence}\n")
    return 1 if found.failures else 0


def _read_json(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); wanted COCO results") from error


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted at least 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number from 0 to 1")
    return value
