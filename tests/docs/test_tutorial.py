"""docs/tutorial.md runs from top to bottom, in one shell, as a reader types it, but for the server's address."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress

import pytest

ADDRESS = "grpc://127.0.0.1:8001"
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a reader finds in the checkout. Linked: what is built lands in the test's own folder.
CHECKOUT = ("assets", "ci", "export", "model_repository", ".venv", ".venv-serve")


@pytest.fixture
def checkout(repo_root, tmp_path):
    """A folder like the checkout, without anything that was built there."""
    if not (repo_root / ".venv" / "bin" / "sparseinst").exists():
        pytest.fail("no .venv in the checkout, which the tutorial runs in; `make setup` builds it")
    for name in CHECKOUT:
        (tmp_path / name).symlink_to(repo_root / name)
    return tmp_path


@pytest.fixture(scope="module")
def sections(repo_root):
    """{heading: [(language, block)]} in the order of the page."""
    parts = SECTION.split((repo_root / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    return {heading: BLOCK.findall(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def free_ports(count):
    """Below those that the system hands out by itself, so that nobody is given one before the server takes it."""
    ports = []
    while len(ports) < count:
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000))) as free:
            ports.append(free.getsockname()[1])
    return ports


def run(sections, folder, seconds):
    """What one shell says that runs the blocks of these sections, Python among them; it must end well."""
    http, grpc, metrics = free_ports(3)
    url = f"grpc://127.0.0.1:{grpc}"
    lines = ["set -euo pipefail"]
    for heading, blocks in sections.items():
        lines.append(f"echo '## {heading}'")
        for language, block in blocks:
            text = block.replace(ADDRESS, url)
            lines.append(text if language == "bash" else f".venv/bin/python - <<'PYTHON'\n{text}PYTHON")
    ports = {"HTTP_PORT": str(http), "GRPC_PORT": str(grpc), "METRICS_PORT": str(metrics), "SPARSEINST_URL": url}
    environment = {name: value for name, value in os.environ.items() if name not in {"MODEL", "PRESET", "PYTHONPATH"}}
    shell = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment | ports,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=seconds)
    finally:
        end(shell.pid)
    assert shell.returncode == 0, said
    return said


def end(group):
    """End what a block left behind: the server too, where the page did not come to its end."""
    try:
        os.killpg(group, signal.SIGTERM)
    except ProcessLookupError:
        return


def test_the_page_has_the_steps_and_nothing_that_is_not_run(sections, repo_root):
    assert list(sections) == [
        "Annotated pictures",
        "Convert and check",
        "Train",
        "Export",
        "Serve",
        "Judge what is served",
        "Ask it",
    ]
    assert all(sections.values())
    fences = re.findall(r"^```", (repo_root / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * sum(map(len, sections.values()))


def test_data_and_serving_work_as_written(sections, checkout, bundled_model):
    """All but training and export, in whose place the bundled model is served."""
    served = checkout / "build" / "tutorial" / "served"
    served.mkdir(parents=True)
    for name in ("model.onnx", "contract.json"):
        shutil.copy(bundled_model / name, served)
    learnt = {"Train", "Export"}
    said = run({name: blocks for name, blocks in sections.items() if name not in learnt}, checkout, 180)
    assert "12 pictures" in said
    assert "0 errors, 2 warnings" in said
    assert re.search(r"^[a-z ]+ 0\.\d\d: \d{3,} pixels$", said, re.MULTILINE)
    assert (checkout / "build" / "tutorial" / "overlay.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_whole_page_leads_to_a_served_model_of_ones_own(sections, checkout):
    said = run(sections, checkout, 540)
    assert '"name": "tutorial"' in (checkout / "build" / "tutorial" / "served" / "contract.json").read_text()
    assert re.search(r"^[a-z ]+ 0\.\d\d: \d{3,} pixels$", said, re.MULTILINE), said
