"""The rules of CONTRIBUTING.md that a machine can hold: who imports whom, sizes, names, no paths of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOM_OF = {
    "sparseinst_runtime": "runtime",
    "sparseinst": "training",
    "sparseinst_export": "export",
    "sparseinst_client": "clients",
    "sparseinst_web": "clients",
    "sparseinst_server": "deploy",
}
MAY_IMPORT = {
    "runtime": set(),
    "training": {"runtime"},
    "export": {"training", "runtime"},
    "clients": {"runtime"},
    "model_repository": {"runtime"},
    "deploy": {"clients", "export", "runtime"},
}
WITHOUT_TORCH = ("runtime", "clients", "model_repository", "deploy")
TORCH = {"torch", "torchvision", "timm"}
# Assembled from pieces, so that this file does not match itself.
MACHINE_PATH = re.compile(rb"(?<![\w.~-])/(work/|root/|home/\w|Users/\w)|\.\./" + b"shared")


def sources(room):
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


def imported_packages(path):
    """Top-level names of all imports of a file, those inside functions and under TYPE_CHECKING included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def called_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def where(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room):
    files = sources(room)
    assert files, f"{room}/ holds no Python: the table of this test is out of date"
    allowed = MAY_IMPORT[room] | {room}
    wrong = {
        where(path): sorted(name for name in imported_packages(path) if ROOM_OF.get(name, room) not in allowed)
        for path in files
    }
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_serves_never_imports_torch(room):
    assert not {where(path) for path in sources(room) if imported_packages(path) & TORCH}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_files_stay_small_and_named(room):
    limit = 99 if room == "model_repository" else 300
    lengths = {where(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(room)}
    assert not {path: length for path, length in lengths.items() if length > limit}
    assert not {path for path in lengths if Path(path).stem in {"utils", "util", "misc", "helpers", "common"}}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_packages_do_not_print(room):
    assert not {where(path) for path in sources(room) if "print" in called_names(path)}


def test_no_file_names_a_path_of_one_machine():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout: nothing tells the project's files from generated ones")
    files = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    # Exported graphs too: an exporter likes to write the paths of the code it traced into them.
    texts = {where(path): path.read_bytes() for path in files if path.is_file() and path.suffix not in {".jpg", ".png"}}
    assert "pyproject.toml" in texts
    found = {path: match.group() for path, text in texts.items() if (match := MACHINE_PATH.search(text))}
    assert not found
