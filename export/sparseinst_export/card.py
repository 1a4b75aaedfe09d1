"""A model card: Hugging Face's format, its figures from the files that hold them, its judgements from people.

What a machine knows (tensors, classes, figures, checksums) is generated from contract, weights and reports. What only
people know (intended use, data and rights, limits) stands in a notes file and is taken over word by word. A section
without its file is left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sparseinst_export import card_sections as sections
from sparseinst_export.card_sections import CardError, Weights, read_report, read_weights
from sparseinst_runtime.checksums import sha256
from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from pathlib import Path

# Sections in their order on the page; those in lower-case letters of the notes, wherever they stand there. Sections of
# the notes with other names follow, in the order of the notes.
MODEL, FILES, TRAINING, EVALUATION = "Model", "Files", "Training", "Evaluation"
AGREEMENT, SPEED, QUANTISATION, ENGINE = "Agreement of the engines", "Speed", "Quantisation", "Engine"
ORDER = (
    "Uses",
    MODEL,
    FILES,
    TRAINING,
    "Data",
    EVALUATION,
    AGREEMENT,
    SPEED,
    QUANTISATION,
    ENGINE,
    "Limits",
    "Licence",
)
FRONT_MATTER = re.compile(r"\A---\n(?P<yaml>.*?)^---\n", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## +(?P<title>.+?) *$", re.MULTILINE)
TASK = {"type": "image-segmentation", "name": "Instance segmentation"}


@dataclass(frozen=True)
class Sources:
    """Files that a card is written from; None and empty leave out what they would say.

    Attributes:
        contract: contract.json of the model.
        weights: safetensors file of ours.
        evaluations: report.json of `sparseinst evaluate --report`, by the name that the card gives each.
        verification: verify.json of `sparseinst-export verify`.
        benchmarks: JSON of `sparseinst benchmark` or `clients/benchmark.py`, by the name that the card gives each.
        quantisation: JSON that `sparseinst-export quantize` wrote beside its graph.
        engine: JSON that `sparseinst-export tensorrt` wrote beside its plan.
        notes: Markdown with `## ` sections, and YAML front matter for what Hugging Face wants to know (license).
    """

    contract: Path
    weights: Path | None = None
    evaluations: dict[str, Path] | None = None
    verification: Path | None = None
    benchmarks: dict[str, Path] | None = None
    quantisation: Path | None = None
    engine: Path | None = None
    notes: Path | None = None


@dataclass(frozen=True)
class Notes:
    """The hand-written part: front matter, the text before the first section, and the sections by title."""

    front: dict[str, Any]
    opening: str
    sections: dict[str, str]


def model_card(sources: Sources) -> str:
    """Write the card.

    Raises:
        CardError: a file cannot be read or is not what it should be, or the files are not of one model.
        ContractError: the contract does not hold.
    """
    contract = Contract.load(sources.contract)
    weights = read_weights(sources.weights) if sources.weights else None
    if weights is not None:
        _check_weights(weights, contract, sources)
    evaluations = [
        (name, read_report(path, "subject", "mask", "classes")) for name, path in (sources.evaluations or {}).items()
    ]
    written = _generated(sources, contract, weights, evaluations)
    notes = read_notes(sources.notes)

    titles = [*ORDER, *(title for title in notes.sections if title not in ORDER)]
    page = [_front_matter(contract, evaluations, notes.front), _provenance(sources), f"# Model card: {contract.name}"]
    page += [notes.opening] if notes.opening else []
    for title in titles:
        texts = [text for text in (written.get(title), notes.sections.get(title)) if text]
        page += [f"## {title}", *texts] if texts else []
    return "\n\n".join(page) + "\n"


def read_notes(path: Path | None) -> Notes:
    """Take hand-written notes apart; CardError where they cannot be read or a section stands there twice."""
    if path is None:
        return Notes({}, "", {})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path} cannot be read as text ({error}); wanted Markdown") from error
    front: Any = {}
    if match := FRONT_MATTER.match(text):
        try:
            front = yaml.safe_load(match["yaml"]) or {}
        except yaml.YAMLError as error:
            raise CardError(f"the front matter of {path.name} is no YAML ({error})") from error
        text = text[match.end() :]
    if not isinstance(front, dict):
        raise CardError(
            f"the front matter of {path.name} holds a {type(front).__name__}; wanted fields, `license: ...`"
        )
    opening, *rest = HEADING.split(text)
    titles, bodies = rest[::2], [body.strip() for body in rest[1::2]]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise CardError(f"{path.name} has the section {twice[0]!r} twice; wanted each once")
    return Notes(front, opening.strip(), dict(zip(titles, bodies, strict=True)))


def _generated(
    sources: Sources, contract: Contract, weights: Weights | None, evaluations: list[tuple[str, dict[str, Any]]]
) -> dict[str, str | None]:
    """The generated sections by title; None for what no file speaks of."""
    own = {path.name: sha256(path) for path in (sources.weights, sources.contract) if path}
    written: dict[str, str | None] = {MODEL: sections.model(contract, weights)}
    if weights is not None:
        written[TRAINING] = sections.training(weights)
    if evaluations:
        written[EVALUATION] = sections.evaluation(evaluations, contract)
    if sources.verification:
        report = read_report(
            sources.verification, "holds", "failures", "pictures", "reference", "comparisons", "subject"
        )
        _check_origin(report["subject"]["files"]["weights"]["sha256"], sources.verification, sources)
        written[AGREEMENT] = sections.agreement(report)
        seen = report["subject"]["files"]
        own |= {seen[kind]["name"]: seen[kind]["sha256"] for kind in ("graph", "plan") if kind in seen}
    if sources.quantisation:
        report = read_report(sources.quantisation, "complete", "settings", "groups", "graph_sha256")
        _check_origin(report["inputs"].get("weights_sha256"), sources.quantisation, sources)
        written[QUANTISATION] = sections.quantisation(report)
        own[sources.quantisation.with_suffix(".onnx").name] = report["graph_sha256"]
    written[FILES] = sections.files(own)
    if sources.benchmarks:
        written[SPEED] = sections.speed([(name, read_report(path)) for name, path in sources.benchmarks.items()])
    if sources.engine:
        report = read_report(sources.engine)
        _check_origin(report.get("weights_sha256"), sources.engine, sources)
        written[ENGINE] = sections.facts(report)
    return written


def _front_matter(contract: Contract, evaluations: list[tuple[str, dict[str, Any]]], notes: dict[str, Any]) -> str:
    """YAML for Hugging Face; fields of the notes come first and win."""
    fields: dict[str, Any] = {"library_name": "sparseinst", "pipeline_tag": TASK["type"]}
    fields["tags"] = ["instance-segmentation", "sparseinst", "onnx", "triton"]
    results = [
        {
            "task": dict(TASK),  # a copy: YAML would write an alias for the second one
            "dataset": {"name": name, "type": "coco"},
            "metrics": [
                {"type": key, "name": f"mask {sections.AP_COLUMNS[key]}", "value": round(report["mask"][key], 4)}
                for key in ("ap", "ap50", "ap75")
                if report["mask"][key] is not None
            ],
        }
        for name, report in evaluations
    ]
    if results:
        fields["model-index"] = [{"name": contract.name, "results": results}]
    text = yaml.safe_dump(notes | {name: fields[name] for name in fields if name not in notes}, sort_keys=False)
    return f"---\n{text}---"


def _provenance(sources: Sources) -> str:
    single = (sources.contract, sources.weights, sources.verification, sources.quantisation, sources.engine)
    several = [*(sources.evaluations or {}).values(), *(sources.benchmarks or {}).values()]
    names = ", ".join(path.name for path in (*single, *several) if path)
    written = f"Written by `sparseinst-export card` from {names}"
    edit = (
        f"edit {sources.notes.name} and write it again" if sources.notes else "it takes hand-written parts by --notes"
    )
    return f"<!-- {written}; {edit}. -->"


def _check_weights(weights: Weights, contract: Contract, sources: Sources) -> None:
    theirs = Contract.from_json(json.dumps(weights.header["contract"]), source="the contract in the weights")
    if theirs != contract:
        names = sorted(name for name in vars(contract) if getattr(theirs, name) != getattr(contract, name))
        raise CardError(
            f"{sources.weights} and {sources.contract} are not of one model: their contracts differ in "
            f"{', '.join(names)}; give the contract that export wrote for these weights"
        )


def _check_origin(theirs: str | None, path: Path, sources: Sources) -> None:
    """What a report is about must be the weights of this card, where both are known."""
    if theirs is not None and sources.weights is not None and theirs != sha256(sources.weights):
        raise CardError(
            f"{path} is about other weights (SHA-256 {theirs[:8]}...) than {sources.weights}; make it anew with these"
        )
