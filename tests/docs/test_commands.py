"""Every command that a page tells a reader to run exists, with the options that it is given there.

Ours are asked for their own help. Of all else that pages name (verbs of make, files, options of scripts) it is enough
that the Makefile, the checkout and the sources have it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

import sparseinst.cli
import sparseinst_client.cli
import sparseinst_export.cli
import sparseinst_server.__main__
import sparseinst_web.__main__
from sparseinst_runtime import Instances

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "sparseinst": sparseinst.cli.main,
    "sparseinst-export": sparseinst_export.cli.main,
    "sparseinst-client": sparseinst_client.cli.main,
    "sparseinst-web": sparseinst_web.__main__.main,
    "sparseinst_server": sparseinst_server.__main__.main,
    "sparseinst_web": sparseinst_web.__main__.main,
}
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "assets/models/animals/README.md")]
    + list((ROOT / "docs").rglob("*.md"))
)
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
SHELL = {"", "bash", "sh", "console"}
NAMES = "|".join(sorted(PROGRAMS, key=len, reverse=True))
# A program at the start of a command, behind variables that are set for it, or as a module of Python.
STARTS = r"(?:^|&& |\|\| |\| |; |do |until |if )\s*(?:\w+=\S+ )*(?:\S*/bin/)?"
PROGRAM = re.compile(rf"(?:{STARTS}|-m )({NAMES})(?= |$)")
# What comes behind a call: another one, what is handed on to Triton, or, behind three spaces, a remark.
END = re.compile(r" (?:&&|\|\||\||>|2>|&|--)(?: |$)|;| {3,}(?=[^\s\-\[])")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
QUOTED = r"(?:\"[^\"]*\"|'[^']*'|\S+)"
MAKE = re.compile(rf"(?:^|&& |; )(?:\w+=\S+ )*make ((?:(?:[a-z-]+|[A-Z_]+={QUOTED})(?: |$))+)")
FILE = re.compile(
    r"(?<![\w./-])((?:ci|clients|deploy|docs|export|model_repository|runtime|tests|training)/[\w/.-]*[\w/])(?![\w*{<-])"
)
# Options of other programs, by the program. Who adds one here has seen it there.
FOREIGN = {
    "curl": "--data-binary --fail --request",
    "docker": "--cap-drop --gpus --ipc --mount --rm --security-opt --shm-size",
    "helm": "--create-namespace --namespace --set --set-file --wait",
    "kubectl": "--all-namespaces --container --previous",
    "locust": "--processes",
    "perf_analyzer": "--profile-export-file",
    "pip": "--break-system-packages",
    "prlimit": "--nofile",
    "tensorboard": "--logdir",
    "torchrun": "--nnodes --nproc-per-node --rdzv-backend --rdzv-endpoint",
    "tritonserver": "--backend-config",
}


def commands(page):
    """Lines of a page that a shell would take, continued ones in one, and code within its text."""
    text = page.read_text(encoding="utf-8")
    found = []
    for language, block in FENCED.findall(text):
        if language in SHELL:
            found += re.sub(r"\\\n\s*|\n {4,}(?=[-\[])", " ", block).splitlines()
    return found + INLINE.findall(FENCED.sub("", text))


@functools.cache
def help_of(program, *words):
    """What a program says of itself, or a command of it; "" where it knows no such command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as end:
        PROGRAMS[program]([*words, "--help"])
    return said.getvalue() if end.value.code == 0 else ""


def is_command(word, said):
    """Whether a help lists the word among commands: in braces, or as the beginning of a line."""
    return bool(re.search(rf"[{{,]{word}[,}}]|^ {{4}}{word}(?:\s|$)", said, re.MULTILINE))


def faults(line):
    """What is wrong with the calls of our programs in a line."""
    found = []
    for match in PROGRAM.finditer(line):
        program = match[1]
        call = END.split(line[match.end() :], maxsplit=1)[0]
        words, said = [], help_of(program)
        for word in call.split():
            if not re.fullmatch(r"[a-z][a-z-]*", word) or not re.search(r"\{\w|COMMAND", said.split("\n\n")[0]):
                break
            if not is_command(word, said):
                found.append(f"{program} {' '.join(words)}: no command {word}")
                break
            words.append(word)
            said = help_of(program, *words)
        known = set(OPTION.findall(said))
        found += [
            f"{program} {' '.join(words)}: no option {option}" for option in OPTION.findall(call) if option not in known
        ]
    return found


@pytest.fixture(scope="module")
def sources():
    """All text that is no documentation: programs, scripts, configurations."""
    rooms = ("ci", "clients", "deploy", "export", "model_repository", "runtime", "tests", "training")
    kinds = {".py", ".sh", ".yaml", ".pbtxt", ".toml", ".tpl", ".cpu", ".server", ".train", ""}
    files = [ROOT / "Makefile", ROOT / "pyproject.toml"]
    files += [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in kinds and path.is_file()]
    own = Path(__file__)
    return "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in files if path != own)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
class TestPage:
    """What one page tells to run."""

    def test_our_programs_know_their_commands_and_options(self, page):
        assert not [fault for line in commands(page) for fault in faults(line)]

    def test_verbs_and_variables_of_make_exist(self, page):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
        variables = set(re.findall(r"\b[A-Z_]+\b", makefile))
        calls = [call for line in commands(page) for call in MAKE.findall(line)]
        words = [word for call in calls for word in re.sub(f"={QUOTED}", "", call).split()]
        assert not [word for word in words if re.fullmatch(r"[a-z][a-z-]+", word) and word not in known]
        assert not [word for word in words if re.fullmatch(r"[A-Z_]+", word) and word not in variables]

    def test_options_are_known_somewhere(self, page, sources):
        named = {option for line in commands(page) for option in OPTION.findall(line)}
        known = set(OPTION.findall(sources + " ".join(FOREIGN.values()) + " ".join(map(help_of, PROGRAMS))))
        assert not sorted(named - known)

    def test_files_exist(self, page):
        named = {name for line in commands(page) for name in FILE.findall(line)}
        assert not sorted(name for name in named if not (ROOT / name).exists())


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("sparseinst train --recipes compact", "sparseinst train: no option --recipes"),
        ("PRESET=cpu .venv/bin/sparseinst-export onxx --out M", "sparseinst-export : no command onxx"),
        ("torchrun -m sparseinst train --nodes 2", "sparseinst train: no option --nodes"),
        ("sparseinst figures grids", "sparseinst figures: no command grids"),
        (".venv-serve/bin/python -m sparseinst_server --port 1 -- --trace", "sparseinst_server : no option --port"),
        (
            "until sparseinst-client health --quick 2> /dev/null; do sleep 1; done",
            "sparseinst-client health: no option --quick",
        ),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, fault):
    assert faults(line) == [fault]


def test_pages_are_read():
    """Guards the patterns: where they stop matching, nothing above could fail."""
    lines = [line for page in PAGES for line in commands(page)]
    assert sum(len(PROGRAM.findall(line)) for line in lines) > 100
    assert sum(len(MAKE.findall(line)) for line in lines) > 60
    assert sum(len(FILE.findall(line)) for line in lines) > 60


def test_the_filter_against_duplicates_keeps_the_better_of_two(tmp_path):
    """The function that docs/faq.md gives."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "faq.py").write_text(block, encoding="utf-8")
    without_duplicates = runpy.run_path(str(tmp_path / "faq.py"))["without_duplicates"]
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[0, :20], masks[1, :18], masks[2, 30:] = 1, 1, 1
    rles = tuple(rle["counts"] for rle in coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))))
    scores = np.array([0.9, 0.8, 0.4], np.float32)
    found = Instances(scores, np.zeros(3, np.int32), np.zeros((3, 4), np.float32), rles, (40, 40))
    assert without_duplicates(found).scores.tolist() == scores[[0, 2]].tolist()
    assert len(without_duplicates(found, iou=0.95)) == 3
