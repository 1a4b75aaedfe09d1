"""Contracts and repositories that the export tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparseinst_export.layout import find_template
from sparseinst_export.repository import assemble
from sparseinst_runtime.contract import Contract


@pytest.fixture(scope="session")
def bundled(bundled_model: Path) -> Contract:
    """The contract of the model that ships."""
    return Contract.load(bundled_model / "contract.json")


@pytest.fixture(scope="session")
def other() -> Contract:
    """A contract that shares no number with the bundled one, and whose class names need escaping."""
    names = ('the "big" one', "back\\slash", "élan", "two\nlines")
    return Contract(
        classes=names, category_ids=(3, 5, 8, 90), input_size=(416, 608), max_instances=20, max_batch_size=4
    )


@pytest.fixture
def exported(tmp_path: Path, other: Contract) -> Path:
    """What `export onnx` leaves behind, as far as a repository looks at it: a graph's file and its contract."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "contract.json").write_text(other.to_json())
    (folder / "model.onnx").write_bytes(b"bytes of a graph")
    (folder / "model.plan").write_bytes(b"bytes of an engine")
    return folder


@pytest.fixture
def assembled(exported: Path, tmp_path: Path) -> Path:
    """A repository filled for the `other` contract, in version 3, with both engines."""
    return assemble(
        find_template(),
        exported / "model.onnx",
        exported / "contract.json",
        tmp_path / "models",
        version=3,
        plan=exported / "model.plan",
    )
