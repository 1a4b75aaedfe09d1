"""Where things lie, for all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# What a shell runs in the background ignores SIGINT, and programs that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def bundled_model(repo_root) -> Path:
    """Folder with model.safetensors, model.onnx and contract.json of the model that ships."""
    return repo_root / "assets" / "models" / "animals"


@pytest.fixture(scope="session")
def scenes(repo_root) -> Path:
    """Folder with images/ and instances.json: composed pictures whose masks are exact."""
    return repo_root / "assets" / "scenes"
