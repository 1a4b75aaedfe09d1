"""The generated sections of a model card, each from one kind of file: text in, Markdown out, no figure of its own.

A file that another part of the project writes is read for the fields named here; one without them is refused by name.
What has no layout of its own (engine, training) is shown as a table of its settings.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseinst_runtime.contract import Contract, TensorSpec

AP_COLUMNS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium"}
AP_COLUMNS |= {"ap_large": "large", "ar100": "AR100"}
LONGEST_LIST = 12  # of values that one cell of a table shows
LONGEST_TABLE = 30  # of rows in a list that is shown
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: measured, not learnt
HEADER = "sparseinst"  # entry of a safetensors header, as `sparseinst.checkpoint` writes it


class CardError(ValueError):
    """A card that cannot be written; the message says which file, what was wanted and what to do."""


@dataclass(frozen=True)
class Weights:
    """What a safetensors file says of itself, read from its header alone.

    Attributes:
        parameters: number of learnt values.
        size: bytes of the file.
        header: contract, network and whatever else the training wrote.
    """

    parameters: int
    size: int
    header: dict[str, Any]


def read_weights(path: Path) -> Weights:
    """Open weights of ours without loading them; raises CardError for another file."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415, of the extra `train`

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            learnt = [name for name in file.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118 (not a dict)
            parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in learnt)
    except (SafetensorError, OSError) as error:
        raise CardError(f"{path} is no readable safetensors file ({error}); wanted weights of a training") from error
    if not {"contract", "network"} <= header.keys():
        raise CardError(f"{path.name} has no contract and network in its header; wanted weights of ours")
    return Weights(parameters, path.stat().st_size, header)


def read_report(path: Path, *wanted: str) -> dict[str, Any]:
    """A JSON object that has the wanted fields; raises CardError for another file."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CardError(f"{path} cannot be read as JSON ({error})") from error
    missing = [name for name in wanted if not isinstance(report, dict) or name not in report]
    if missing or not isinstance(report, dict):
        raise CardError(f"{path} has no {', '.join(missing) or 'fields'}; it is not the report that is wanted here")
    return report


def model(contract: Contract, weights: Weights | None) -> str:
    """What goes in and comes out, and the architecture."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (contract.mean, contract.std))
    rows = [
        (f"{len(contract.classes)} classes", ", ".join(contract.classes)),
        ("input", f"{_tensor(contract.input)}: RGB, letterboxed to {' x '.join(map(str, contract.input_size))} pixels"),
        *(("output", _tensor(spec)) for spec in contract.outputs),
        ("score threshold", f"{contract.score_threshold:g}, unless a request says otherwise"),
        ("mask threshold", f"{contract.mask_threshold:g}"),
        ("largest batch", str(contract.max_batch_size)),
        ("pixel mean; deviation", f"{mean}; {std}"),
    ]
    if weights is not None:
        rows.append(
            ("parameters", f"{weights.parameters / 1e6:.1f} M; {weights.size / 1e6:.1f} MB in the file of weights")
        )
        rows += settings(weights.header["network"])
    return table(("what", "value"), rows)


def training(weights: Weights) -> str | None:
    """What the training wrote into the weights besides contract and network; None where that is nothing."""
    rows = settings({name: value for name, value in weights.header.items() if name not in ("contract", "network")})
    return table(("what", "value"), rows) if rows else None


def evaluation(reports: list[tuple[str, dict[str, Any]]], contract: Contract) -> str:
    """COCO's figures, one line for each report, then the classes of each.

    Args:
        reports: name and content of `report.json` of `sparseinst evaluate --report`.
        contract: of the model; a report of other classes is refused.
    """
    for name, report in reports:
        found = {row["name"] for row in report["classes"]}
        if found != set(contract.classes):
            strangers = ", ".join(sorted(found ^ set(contract.classes))[:5])
            raise CardError(f"{name} and the contract do not have the same classes (not in both: {strangers})")
    lines = [
        [name, str(report["subject"]["pictures"]), *(figure(report["mask"][key]) for key in AP_COLUMNS)]
        for name, report in reports
    ]
    parts = ["COCO mask AP, by pycocotools' definition.", table(("", "pictures", *AP_COLUMNS.values()), lines)]
    for name, report in reports:
        rows = [
            (row["name"], str(row["instances"]), *(figure(row[key]) for key in ("ap", "ap50", "ap75", "ar100")))
            for row in report["classes"]
        ]
        parts += [f"### Classes: {name}", table(("class", "instances", "AP", "AP50", "AP75", "AR100"), rows)]
        parts.append(f"{name}: {'; '.join(f'{key} {value}' for key, value in report['subject'].items())}.")
    return "\n\n".join(parts)


def agreement(report: dict[str, Any]) -> str:
    """`verify.json` of `sparseinst-export verify`: every engine against PyTorch."""
    rows = []
    for each in report["comparisons"]:
        instances = each["instances"]
        shown = [figure(each["ap"], 4), f"{each['ap_difference']:+.4f}", str(instances["instances"])]
        shown += [figure(instances[name], 4) for name in ("label_agreement", "iou_min", "iou_median")]
        rows.append((each["engine"], each["against"], "no" if each["failures"] else "yes", *shown))
    head = ("engine", "against", "agrees", "AP", "difference", "instances", "same label", "IoU min", "IoU median")
    verdict = "Every figure is within tolerance." if report["holds"] else "**Out of tolerance:**"
    failures = "\n".join(f"- {sentence}" for sentence in report["failures"])
    pictures = f"{report['pictures']} pictures of {report['subject']['files']['annotations']['name']}"
    about = f"{pictures}; PyTorch: mask AP {figure(report['reference']['ap'], 4)}. {verdict}"
    return "\n\n".join(filter(None, [about, failures, table(head, rows)]))


def speed(reports: list[tuple[str, dict[str, Any]]]) -> str:
    """JSON of `sparseinst benchmark` or of `clients/benchmark.py`: machine and setting, then the rows or figures."""
    parts = []
    for name, report in reports:
        parts.append(f"### {name}")
        about = {key: value for key, value in report.items() if key != "rows"}
        parts.append(table(("what", "value"), settings(about)))
        if rows := report.get("rows"):
            wanted = ("height", "width", "batch_size", "total", "pictures_per_second")
            columns = [key for key in wanted if key in rows[0]] or [k for k, v in rows[0].items() if not _nested(v)]
            lines = [[cell(row[key]) for key in columns] for row in rows]
            parts.append(table([key.replace("_", " ") for key in columns], lines))
    parts.append("Times are in milliseconds where nothing else is said, and hold for the machine named with them.")
    return "\n\n".join(parts)


def facts(report: dict[str, Any]) -> str:
    """A report of any layout: its settings as one table, short lists of rows as tables of their own.

    `measured`, what a search kept to go on from, is left out.
    """
    shown = {name: value for name, value in report.items() if name != "measured"}
    rows = {name: value for name, value in shown.items() if _rows(value)}
    parts = [table(("what", "value"), settings({name: value for name, value in shown.items() if name not in rows}))]
    for name, value in rows.items():
        flat = [dict(settings(row)) for row in value]
        columns = list(dict.fromkeys(column for row in flat for column in row))
        parts += [
            f"### {name.capitalize()}",
            table(columns, [[row.get(each, "-") for each in columns] for row in flat]),
        ]
    return "\n\n".join(parts)


def quantisation(report: dict[str, Any]) -> str:
    """What was made, from how many pictures, and what each group of layers cost alone; see `quantization_record`."""
    if not report["complete"]:
        raise CardError("the record of the quantisation is of one that did not end; run `quantize` again to the end")
    given, groups = report["settings"], report["groups"]
    share = sum(group["share"] for group in groups if group["quantised"])
    rows = [
        ("precision", f"{given['precision']} for {given['target']}, {share:.1%} of the convolutions' multiplications"),
        ("float", ", ".join(group["name"] for group in groups if not group["quantised"]) or "no group of layers"),
        ("calibrated on", f"{given['calibration_pictures']} pictures"),
    ]
    if "result" in report:
        for key, name in (("float", "float graph"), ("all_quantised", "all quantised"), ("result", "as written")):
            found = report[key]
            told = f"mask AP {figure(found['ap'], 4)}, agreement {figure(found['agreement'], 4)}"
            rows.append((name, f"{told} on {given['search_pictures']} other training pictures"))
    costs = [
        (group["name"], f"{group['share']:.1%}", *(figure(group["alone"][key], 4) for key in ("ap", "agreement")),
         given["precision"] if group["quantised"] else "float")
        for group in groups if group["alone"]
    ]  # fmt: skip
    parts = [table(("what", "value"), rows)]
    if costs:
        head = ("group quantised alone", "share of work", "mask AP", "agreement", "in the graph")
        parts += ["Agreement is the mask AP against what the float graph finds.", table(head, costs)]
    return "\n\n".join(parts)


def files(checksums: dict[str, str]) -> str:
    """Names and checksums of the model's own files."""
    return table(("file", "SHA-256"), [(f"`{name}`", f"`{digest}`") for name, digest in checksums.items()])


def settings(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of dotted name and text; longer lists as their length."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        rows += settings(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", cell(value))]
    return rows


def cell(value: Any) -> str:
    """A value of JSON in a table."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        short = len(value) <= LONGEST_LIST and not any(map(_nested, value))
        return ", ".join(map(cell, value)) if short else f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return str(value)


def figure(value: float | None, digits: int = 3) -> str:
    """A share of 0..1; a dash where there was nothing to measure."""
    return "-" if value is None or value < 0 else f"{value:.{digits}f}"


def table(head: tuple[str, ...] | list[str], rows: Any) -> str:
    """A Markdown table; bars and line breaks inside a cell are escaped."""
    lines = [[str(text).replace("|", "\\|").replace("\n", " ") for text in row] for row in (head, *rows)]
    first, *body = (f"| {' | '.join(row)} |" for row in lines)
    return "\n".join([first, "|" + "---|" * len(head), *body])


def _tensor(spec: TensorSpec) -> str:
    return f"`{spec.name}` {spec.dtype} [{', '.join(['B', *map(str, spec.shape)])}]"


def _rows(value: Any) -> bool:
    short = isinstance(value, list) and 0 < len(value) <= LONGEST_TABLE
    return short and all(isinstance(row, dict) for row in value)


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list))
