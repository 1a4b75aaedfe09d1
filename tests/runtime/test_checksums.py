"""Checksums of a version folder: what changed is named, and coreutils reads the same file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sparseinst_runtime.checksums import NAME, read_checksums, sha256, verified, write_checksums
from sparseinst_runtime.contract import ContractError


@pytest.fixture
def folder(tmp_path) -> Path:
    """`models/network/7` with two files, sealed."""
    folder = tmp_path / "network" / "7"
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text("{}\n")
    (folder / "model 1.onnx").write_bytes(bytes(3_000_000))
    write_checksums(folder)
    return folder


def test_files_as_they_were_are_given(folder):
    assert verified(folder, "model 1.onnx") == folder / "model 1.onnx"
    assert set(read_checksums(folder)) == {"contract.json", "model 1.onnx"}
    assert write_checksums(folder).read_text().count("\n") == 2, "sealing again does not seal the seal"


def test_coreutils_agrees(folder):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("sha256sum is not installed")
    command = [program, "--check", "--strict", "--quiet", NAME]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    theirs = subprocess.run([program, *read_checksums(folder)], cwd=folder, check=True, capture_output=True, text=True)
    assert theirs.stdout == (folder / NAME).read_text()


@pytest.mark.parametrize("position", [0, 1_500_000, 2_999_999])
def test_one_changed_bit_is_refused_in_words(folder, position):
    path = folder / "model 1.onnx"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    words = rf"model 1\.onnx of version 7 of network is not the file that was assembled: .*{sha256(path)[:8]}, .* again"
    with pytest.raises(ContractError, match=words):
        verified(folder, "model 1.onnx")
    assert verified(folder, "contract.json")


def test_files_that_are_missing_or_that_nobody_sealed_are_refused(folder):
    (folder / "model.plan").write_bytes(b"built later")
    with pytest.raises(ContractError, match=r"model\.plan of version 7 of network is not in SHA256SUMS"):
        verified(folder, "model.plan")
    with pytest.raises(ContractError, match=r"version 7 of network has no model\.onnx, only contract\.json, model 1"):
        verified(folder, "model.onnx")


@pytest.mark.parametrize("line", ["0123  contract.json", f"{'0' * 64}  ../contract.json", f"{'0' * 64}contract.json"])
def test_a_line_that_is_no_checksum_is_named(folder, line):
    (folder / NAME).write_text(f"{'0' * 64}  fine\n{line}\n")
    with pytest.raises(ContractError, match=r"has the line .*; wanted DIGEST  NAME"):
        read_checksums(folder)


def test_a_folder_without_checksums_is_refused(folder):
    (folder / NAME).unlink()
    with pytest.raises(ContractError, match="no SHA256SUMS to hold the files of version 7 of network against"):
        verified(folder, "contract.json")
