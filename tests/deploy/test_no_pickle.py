"""Nothing that is read runs as code, and no words reach a shell: what SECURITY.md says, held for every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOMS = ("runtime", "training", "export", "clients", "model_repository", "deploy", "ci")
NEVER = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load", "marshal.loads"}


def calls(source: str):
    """Dotted name and keyword arguments of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield ast.unparse(node.func), keywords, node.lineno


def dangers(source: str) -> list[str]:
    """What a file calls that may run what it reads."""
    return [
        f"line {line}: {name}"
        for name, keywords, line in calls(source)
        if name in NEVER
        or keywords.get("shell", "False") != "False"
        or keywords.get("allow_pickle", "False") != "False"
        or (name == "torch.load" and keywords.get("weights_only") != "True")
    ]


def test_no_file_runs_what_it_reads(repo_root: Path):
    files = [path for room in ROOMS for path in (repo_root / room).rglob("*.py")]
    assert len(files) > 100
    found = {str(path.relative_to(repo_root)): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "torch.load(path)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=True)",
        "os.system(x)",
    ],
)
def test_what_runs_code_is_noticed(line):
    assert dangers(line)
    assert not dangers("torch.load(path, weights_only=True)")
