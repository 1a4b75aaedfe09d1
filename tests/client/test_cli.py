"""The command line: what it understands, what it refuses, and its exit status."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sparseinst_client import cli


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required"),
        (("image",), "PICTURE"),
        (("segment", "a.jpg"), "invalid choice"),
        (("evaluate", "--images", "val"), "--annotations"),
        (("image", "a.jpg", "--score-threshold", "1.5"), "0 to 1"),
        (("image", "a.jpg", "--score-threshold", "nan"), "0 to 1"),
        (("image", "a.jpg", "--score-threshold", "high"), "high"),
        (("image", "a.jpg", "--max-instances", "0"), "at least 1"),
        (("image", "a.jpg", "--timeout", "0"), "more than 0"),
        (("image", "a.jpg", "--out", "overlay.gif"), ".png"),
        (("image", "a.jpg", "--url", "localhost:8001"), "grpc://host:port"),
    ],
)
def test_wrong_usage_is_said_with_status_2(arguments, said, capsys):
    assert said in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["image", "--help"], ["evaluate", "--help"]])
def test_help_teaches_by_examples(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert "--out overlay.png" in out
    assert "SPARSEINST_URL" in out


def test_the_environment_names_the_server_and_the_option_overrides_it(monkeypatch, capsys):
    monkeypatch.setenv("SPARSEINST_URL", "http://127.0.0.1:9")
    assert cli.main(["health"]) == 1
    assert "http://127.0.0.1:9" in capsys.readouterr().err
    assert cli.main(["health", "--url", "grpc://127.0.0.1:9"]) == 1
    assert "grpc://127.0.0.1:9" in capsys.readouterr().err


def test_a_missing_picture_is_one_sentence_and_status_1(tmp_path, capsys):
    assert cli.main(["image", str(tmp_path / "missing.jpg")]) == 1
    error = capsys.readouterr().err
    assert "missing.jpg" in error
    assert error.count("\n") == 1


def test_no_server_is_one_sentence_and_status_1_and_writes_nothing(tmp_path, capsys):
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"whatever")
    arguments = ["image", str(picture), "--url", "grpc://127.0.0.1:9", "--out", str(tmp_path / "out.png")]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ('{"images": [], "annotations": [], "categories": []}', "no pictures"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}', "a.jpg; check"),
    ],
)
def test_evaluation_looks_at_the_files_before_it_asks_a_server(annotations, said, tmp_path, capsys):
    path = tmp_path / "val.json"
    if annotations is not None:
        path.write_text(annotations)
    arguments = ["--annotations", str(path), "--images", str(tmp_path), "--out", str(tmp_path / "new" / "out.json")]
    assert cli.main(["evaluate", *arguments, "--url", "grpc://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_it_runs_as_a_module():
    run = [sys.executable, "-m", "sparseinst_client.cli", "health", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("sparseinst-client: ")
