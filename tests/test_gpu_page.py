"""docs/gpu.md is the one list of what no GPU has verified: no other document may say so without being on it."""

from __future__ import annotations

import re
import subprocess

import pytest

PAGE = "docs/gpu.md"
SAID = re.compile(r"not\s+verified\s+on\s+a\s+GPU|\(GPU\)", re.IGNORECASE)
# Documents and configurations. Code says it in the help of commands, which the page names by their package.
SUFFIXES = {".md", ".pbtxt", ".yaml", ".yml", ".toml", ".tpl"}


@pytest.fixture(scope="module")
def files(repo_root):
    """The project's documents and configurations, by path."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repo_root, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: nothing tells the project's files from generated ones")
    paths = [repo_root / name.decode() for name in listing.stdout.split(b"\0") if name]
    return {
        str(path.relative_to(repo_root)): path.read_text(encoding="utf-8")
        for path in paths
        if path.suffix in SUFFIXES and path.is_file()
    }


def test_every_document_that_says_so_is_on_the_page(files):
    saying = {name for name, text in files.items() if name != PAGE and SAID.search(text)}
    assert saying, "no document says it any more: is everything verified, or is the pattern out of date?"
    listed = {link.removeprefix("../") if link.startswith("../") else f"docs/{link}" for link in links(files[PAGE])}
    assert saying <= listed


def test_the_page_lists_no_document_that_is_gone(files):
    missing = {
        link for link in links(files[PAGE]) if link.removeprefix("../") not in files and f"docs/{link}" not in files
    }
    assert not missing


def links(text):
    """Targets of the page's links to files."""
    return re.findall(r"\]\(([^)#:]+)\)", text)
