from __future__ import annotations

import os
import stat

import pytest

from sparseinst_runtime.files import atomic_write


def test_content_comes_back_and_no_temporary_file_stays(tmp_path):
    assert atomic_write(tmp_path / "a.bin", b"\x00\xff") == tmp_path / "a.bin"
    atomic_write(tmp_path / "b.txt", "größer")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "größer"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "b.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "weights.bin"
    atomic_write(path, b"old")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(f"os.{step}", fail)
    if step == "replace":
        monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        atomic_write(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_in_mid_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.bin"
    atomic_write(path, b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_missing_folder_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "no" / "file", b"")
    assert not (tmp_path / "no").exists()
