"""What a verification says: `verify.md` for people, `verify.json` for machines, `worst.png` to look at."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import onnx

from sparseinst_export.disagreement import draw_pair, encode_png
from sparseinst_runtime.checksums import sha256
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sparseinst.data import CocoInstances
    from sparseinst_export.verification import Comparison, Verification

LIBRARIES: tuple[str, ...] = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "numpy")
LIBRARIES += ("opencv-python-headless", "pycocotools", "sparseinst")
HEAD: tuple[str, ...] = ("engine", "against", "agrees", "mask AP", "difference", "instances", "same label")
HEAD += ("IoU min", "IoU 1 %", "IoU median", "score max", "score mean", "mask max", "mask mean", "mask > 1")
LEGEND = """\
Instances are those above the score threshold on either side, paired by the network's query; what was served, by the
overlap of the masks. Mask IoU is in the picture's own frame, 0 without a partner. Score max and mean are absolute
differences over all of the network's outputs; mask max and mean are differences in steps of 1/255, and mask > 1 is the
share of the mask values that differ by more than one step. Scores are judged without what pixels at the mask threshold
move: the score holds the mean over the pixels above it and jumps where one crosses.
"""


@dataclass(frozen=True)
class Subject:
    """What was verified, and with what.

    Attributes:
        files: name and SHA-256 of each file that took part, by what it is.
        notes: what the graph says about itself and does not fit the weights, in sentences.
        versions: of Python and the libraries; None for what is not installed.
        machine: its architecture.
        score_threshold: instances above it are compared.
        left_out: why engines did not take part, by name.
        precision: of the graph: "fp32" or "fp16".
    """

    files: dict[str, dict[str, str]]
    notes: list[str]
    versions: dict[str, str | None]
    machine: str
    score_threshold: float
    left_out: dict[str, str]
    precision: str


def describe(
    files: dict[str, Path], graph: bytes, contract: Contract, left_out: dict[str, str], precision: str
) -> Subject:
    """Gather names, checksums and versions.

    Args:
        files: that took part; `weights` among them.
        graph: bytes of the ONNX file.
        contract: of the weights.
        left_out: why engines did not take part, by name.
        precision: what the graph is judged as.
    """
    named = {what: {"name": path.name, "sha256": sha256(path)} for what, path in files.items()}
    return Subject(
        files=named,
        notes=graph_notes(graph, contract, named["weights"]["sha256"]),
        versions={"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        machine=platform.machine(),
        score_threshold=contract.score_threshold,
        left_out=left_out,
        precision=precision,
    )


def graph_properties(graph: bytes) -> dict[str, str]:
    """What an ONNX file says about itself."""
    return {entry.key: entry.value for entry in onnx.load_model_from_string(graph).metadata_props}


def graph_notes(graph: bytes, contract: Contract, weights_sha256: str) -> list[str]:
    """Sentences about what the graph's metadata says that does not fit the weights; no verdict hangs on them."""
    properties = graph_properties(graph)
    notes = []
    named = properties.get("weights_sha256")
    if named is None:
        notes.append("The graph does not say which weights it was exported from.")
    elif named != weights_sha256:
        notes.append(f"The graph says it was exported from other weights: SHA-256 {named}.")
    if "contract" in properties:
        ours, theirs = asdict(contract), asdict(Contract.from_json(properties["contract"], source="the graph"))
        if different := sorted(name for name in ours if ours[name] != theirs[name]):
            notes.append(f"The graph's contract differs from that of the weights in {', '.join(different)}.")
    return notes


def as_dict(verification: Verification, subject: Subject) -> dict[str, Any]:
    """All of it, ready for JSON; figures that are not numbers, or infinite, as None."""
    worst = verification.worst
    return {
        "holds": not verification.failures,
        "failures": verification.failures,
        "pictures": verification.pictures,
        "reference": {"engine": "PyTorch", "ap": verification.ap},
        "comparisons": [comparison.figures() for comparison in verification.comparisons],
        "tolerances": {f"{each.engine} against {each.against}": _allowed(each) for each in verification.comparisons},
        "broken": verification.broken,
        "worst": {
            "engine": worst[0].engine,
            "against": worst[0].against,
            "image_id": worst[1].image_id,
            "iou": worst[1].iou,
            "same_label": worst[1].same_label,
        }
        if worst
        else None,
        "subject": asdict(subject),
    }


def markdown(verification: Verification, subject: Subject) -> str:
    """The figures as a page that shows `worst.png` beside it."""
    failures = verification.failures
    lines = ["# Verification", ""]
    if failures:
        lines += [f"**Does not hold**: {len(failures)} out of tolerance.", "", *(f"- {each}" for each in failures), ""]
    else:
        lines += ["**Holds**: every figure is within tolerance.", ""]
    threshold = f"score threshold {subject.score_threshold}, graph in {subject.precision}"
    lines += [f"{verification.pictures} pictures, {threshold}. PyTorch: mask AP {_ap(verification.ap)}.", ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---|---|---|" + "---:|" * (len(HEAD) - 3)]
    lines += [f"| {' | '.join(_row(comparison))} |" for comparison in verification.comparisons]
    lines += ["", *(f"- {name} was left out: {why}" for name, why in subject.left_out.items()), "", LEGEND]
    if verification.worst:
        comparison, _ = verification.worst
        lines += [f"The worst disagreement, {comparison.engine} against {comparison.against}:", ""]
        lines += ["![The worst disagreement](worst.png)", ""]
    lines += ["## Tolerances", "", "| comparison | AP | same label | IoU median | score | mask > 1 |"]
    lines += ["|---|---:|---:|---:|---:|---:|", *(_tolerance_row(each) for each in verification.comparisons), ""]
    lines += ["## What was verified", "", *(f"- {note}" for note in subject.notes)]
    lines += [f"- {what}: {file['name']}, SHA-256 `{file['sha256']}`" for what, file in subject.files.items()]
    versions = [f"{name} {version or '(not installed)'}" for name, version in subject.versions.items()]
    return "\n".join([*lines, f"- {', '.join(versions)}; {subject.machine}"]) + "\n"


def write_report(
    verification: Verification,
    subject: Subject,
    *,
    dataset: CocoInstances,
    file_names: dict[int, str],
    classes: Sequence[str],
    out: Path,
) -> None:
    """Write `verify.md`, `verify.json` and, where an instance was found, `worst.png`; OSError where that fails.

    A `worst.png` of an earlier run that found one is removed where this one found none.

    Args:
        verification: the figures.
        subject: of what.
        dataset: the pictures.
        file_names: of the pictures, by image id.
        classes: class names by label.
        out: folder of the report, made where it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    if verification.worst is None:
        (out / "worst.png").unlink(missing_ok=True)
    else:
        comparison, pair = verification.worst
        index = dataset.image_ids.index(pair.image_id)
        sides = (comparison.against, comparison.engine)
        drawing = draw_pair(dataset.image(index), pair, sides, classes, file_names[pair.image_id])
        atomic_write(out / "worst.png", encode_png(drawing))
    text = json.dumps(_finite(as_dict(verification, subject)), indent=1, allow_nan=False)
    atomic_write(out / "verify.json", text + "\n")
    atomic_write(out / "verify.md", markdown(verification, subject))


def _row(comparison: Comparison) -> list[str]:
    figures = comparison.instances.figures()
    row = [comparison.engine, comparison.against, "no" if comparison.failures else "yes"]
    row += [_ap(comparison.ap), f"{comparison.ap_difference:+.4f}", str(figures["instances"])]
    row += [_figure(figures[name]) for name in ("label_agreement", "iou_min", "iou_p01", "iou_median")]
    if comparison.tensors is None:
        return [*row, *"-----"]
    tensors = comparison.tensors.figures()
    row += [f"{tensors['score_max']:.1e}", f"{tensors['score_mean']:.1e}", f"{tensors['mask_max']}"]
    return [*row, f"{tensors['mask_mean']:.1e}", f"{tensors['mask_share']:.1e}"]


def _allowed(comparison: Comparison) -> dict[str, float]:
    allowed = asdict(comparison.tolerances)
    names = allowed if comparison.tensors is not None else ("ap", "labels", "iou")
    return {name: allowed[name] for name in names}


def _tolerance_row(comparison: Comparison) -> str:
    allowed = _allowed(comparison)
    cells = [
        f"{allowed[name]:g}" if name in allowed else "-" for name in ("ap", "labels", "iou", "score", "mask_share")
    ]
    return f"| {comparison.engine} against {comparison.against} | {' | '.join(cells)} |"


def _ap(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
