"""What a quantisation measured, as JSON beside the graph: for people, and for a run that was stopped to go on from.

Measures are used again only for the same graph, pictures, settings and libraries.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sparseinst_export.layer_groups import Layer
    from sparseinst_export.mixed_precision import Measure, Search

LIBRARIES = ("nncf", "numpy", "onnx", "openvino")  # what the figures may depend on


@dataclass(frozen=True)
class Group:
    """A row of the table.

    Attributes:
        name: of the group.
        layers: number of its convolutions.
        share: of all multiplications of convolutions.
        alone: what the graph reaches with this group alone quantised; None where nobody measured.
        quantised: whether it is.
    """

    name: str
    layers: int
    share: float
    alone: Measure | None
    quantised: bool


def table(groups: Mapping[str, list[Layer]], found: Search | None, kept: tuple[str, ...]) -> tuple[Group, ...]:
    """A row for each group, in the order of computation."""
    alone = found.alone if found else {}
    total = sum(layer.macs for layers in groups.values() for layer in layers)
    return tuple(
        Group(name, len(layers), sum(layer.macs for layer in layers) / total, alone.get(name), name not in kept)
        for name, layers in groups.items()
    )


class Record:
    """The JSON file.

    Args:
        path: of the file; one of the same `inputs` gives its measures.
        inputs: everything that measures depend on, ready for JSON; the libraries' versions are added.

    Attributes:
        measured: what is known, by the names of the quantised groups.
    """

    def __init__(self, path: Path, inputs: dict[str, Any]) -> None:
        self.path = path
        self.inputs = inputs | {"versions": {name: version(name) for name in LIBRARIES}}
        self.measured: dict[str, dict[str, Any]] = {}
        if path.is_file():
            self.measured = self._known(path.read_text("utf-8"))

    def save(self, measured: dict[str, dict[str, Any]]) -> None:
        """Keep what is known so far."""
        self.measured = measured
        self._write({"complete": False})

    def finish(self, settings: dict[str, Any], groups: tuple[Group, ...], found: Search | None, sha256: str) -> None:
        """Keep everything.

        Args:
            settings: as given, ready for JSON.
            groups: the table.
            found: the search; None without one.
            sha256: of the written graph.
        """
        summary: dict[str, Any] = {"complete": True, "settings": settings, "graph_sha256": sha256}
        if found is not None:
            summary |= {
                "float": asdict(found.reference),
                "all_quantised": asdict(found.everything),
                "result": asdict(found.result),
                "kept_float": found.kept,
            }
        self._write(summary | {"groups": [asdict(group) for group in groups]})

    def _known(self, text: str) -> dict[str, dict[str, Any]]:
        try:
            before = json.loads(text)
            known: dict[str, dict[str, Any]] = before["measured"] if before["inputs"] == self.inputs else {}
        except (ValueError, TypeError, KeyError):  # something else, which is going to be replaced
            return {}
        return known

    def _write(self, summary: dict[str, Any]) -> None:
        whole = {"format": 1, "inputs": self.inputs} | summary | {"measured": self.measured}
        atomic_write(self.path, json.dumps(whole, indent=2) + "\n")
