"""What a check can find, how grave it is and what to do about it; a report of findings as table and as JSON.

An error makes training stop or learn what is wrong, a warning deserves a look, a note is worth knowing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table

_EXAMPLES = 3

# kind: (severity, what to do)
KINDS: dict[str, tuple[str, str]] = {
    "broken entry": ("error", "complete the entry of the JSON, or remove it"),
    "repeated id": ("error", "number the entries anew: later ones hide earlier ones"),
    "unknown image": ("error", "add the image to the JSON, or remove the annotation"),
    "unknown class": ("error", "add the category to the JSON, or remove the annotation"),
    "duplicate class": ("error", "merge the two categories, or rename one"),
    "missing picture": ("error", "add the file, or check --images"),
    "unreadable picture": ("error", "replace the file, or remove the image from the JSON"),
    "wrong picture size": ("error", "annotate the picture as it is now; programs differ on EXIF orientation"),
    "repeated file name": ("error", "list each picture once, with all its annotations"),
    "missing area": ("error", "write the mask's pixels as `area`: evaluation sorts instances by it"),
    "broken polygon": ("error", "redraw or remove the annotation: nothing of it can be used"),
    "unreadable mask": ("error", "write the run lengths anew for the picture's size"),
    "empty mask": ("error", "redraw or remove the annotation"),
    "broken polygon part": ("warning", "remove the part: the rest of the annotation is used without it"),
    "polygon leaves picture": ("warning", "clip it: pixels outside are not used"),
    "tiny mask": ("warning", "remove it if it cannot be seen"),
    "unused class": ("warning", "remove the category, unless another split has it"),
    "similar class names": ("warning", "merge the categories if they mean the same"),
    "duplicate annotation": ("warning", "remove one of the two"),
    "duplicate picture": ("warning", "keep one of them, and never one in training and one in validation"),
    "crowded picture": ("warning", "more queries (--instances) see all instances; the surplus is never found"),
    "crowd": ("note", "regions, not instances: training leaves them out, evaluation ignores what is found there"),
    "picture without instances": ("note", "training leaves them out, evaluation counts what is found there as wrong"),
    "picture not listed": ("note", "it is not used; add it to the JSON if it should be"),
}
SEVERITIES = ("error", "warning", "note")
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Finding:
    """Faults of one kind: how many, the first ones in words, and what to do."""

    kind: str
    severity: str
    count: int
    examples: tuple[str, ...]
    advice: str


class Findings:
    """Collects faults by kind while a check runs."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count a fault; the first few keep their words."""
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def sorted(self) -> tuple[Finding, ...]:
        """All that was found, in the order of `KINDS`: gravest first."""
        return tuple(
            Finding(kind, severity, self._counts[kind], tuple(self._examples[kind]), advice)
            for kind, (severity, advice) in KINDS.items()
            if self._counts[kind]
        )


@dataclass(frozen=True)
class Report:
    """A checked data set.

    Attributes:
        annotations: name of the JSON.
        pictures: images listed in the JSON.
        instances: annotations that are no crowds and have a usable mask.
        crowds: crowd annotations.
        queries: instances that the network can find in one picture, N.
        most_instances: instances of the fullest picture.
        instances_of_class: number of instances by class name.
        findings: what is wrong, gravest first.
    """

    annotations: str
    pictures: int
    instances: int
    crowds: int
    queries: int
    most_instances: int
    instances_of_class: dict[str, int] = field(repr=False)
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing of severity error was found."""
        return all(finding.severity != "error" for finding in self.findings)

    def count(self, severity: str) -> int:
        """Number of faults of one severity."""
        return sum(finding.count for finding in self.findings if finding.severity == severity)

    def to_json(self) -> str:
        """The whole report as JSON text."""
        return json.dumps({"clean": self.clean, **asdict(self)}, indent=2) + "\n"

    def render(self) -> RenderableType:
        """Findings, class counts and a line of totals, for a rich console."""
        mean = self.instances / self.pictures if self.pictures else 0.0
        totals = (
            f"{_plain(self.annotations)}: {self.pictures} pictures, {self.instances} instances, {self.crowds} crowds; "
            f"{mean:.1f} instances a picture, at most {self.most_instances} (queries: {self.queries}); "
            + ", ".join(f"{self.count(severity)} {severity}s" for severity in SEVERITIES)
        )
        classes = class_table(self.instances_of_class)
        if not self.findings:
            return Group(classes, totals)
        table = Table("severity", "finding", "count", "for example", "what to do", title="Findings")
        for finding in self.findings:
            style = _STYLES[finding.severity]
            examples = "\n".join(finding.examples)
            table.add_row(
                f"[{style}]{finding.severity}[/]", finding.kind, str(finding.count), _plain(examples), finding.advice
            )
        return Group(classes, table, totals)


def class_table(instances_of_class: dict[str, int]) -> Table:
    """Instances of each class, most frequent first."""
    table = Table("class", "instances", "share", title="Classes")
    total = sum(instances_of_class.values())
    for name, count in sorted(instances_of_class.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(_plain(name), str(count), f"{count / total:.1%}" if total else "")
    return table


def _plain(text: str) -> str:
    """Text of a data set in which rich must not see markup."""
    return text.replace("[", "\\[")
