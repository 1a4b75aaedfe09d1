"""The command line: what it understands, what it refuses, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparseinst_client import cli
from sparseinst_client.commands.arguments import connect
from sparseinst_client.tracking import Tracker


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
        (("folder", "a", "--out", "found.json"), ".jsonl"),
        (("folder", "a", "--in-flight", "0"), "at least 1"),
        (("video", "a.mp4"), "--out"),
        (("video", "a.mp4", "--out", "b.gif"), ".mp4"),
        (("health", "--retries", "-1"), "0 for never"),
        (("health", "--header", "Bearer secret"), "wanted 'NAME: VALUE'"),
        (("health", "--ca", "missing.pem"), "takes no certificates"),
        (("health", "--url", "grpcs://127.0.0.1:9", "--ca", "missing.pem"), "no file missing.pem"),
        (("health", "--url", "localhost:8001"), "grpc://host:port"),
    ],
)
def test_wrong_usage_is_said_with_status_2(arguments, said, capsys):
    assert said in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["", "image", "folder", "video", "evaluate", "health", "models"])
def test_help_teaches_by_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"examples:\n  {f'sparseinst-client {command}'.strip()}" in out
    assert "SPARSEINST_URL" in out


def test_the_benchmark_answers_for_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--help"])
    assert stop.value.code == 0
    assert "--concurrencies" in capsys.readouterr().out
    assert "0: wanted" in refused(capsys, "bench", "--seconds", "0", "picture.jpg")


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


OUTPUTS = [
    ("image", "{picture}", "--out", "{out}.png"),
    ("image", "{picture}", "--json", "{out}.json"),
    ("image", "{picture}", "--labelme", "{out}.json"),
    ("image", "{picture}", "--yolo", "{out}.txt"),
    ("folder", "{folder}", "--out", "{out}.jsonl"),
    ("folder", "{folder}", "--coco", "{out}.json"),
    ("video", "{picture}", "--out", "{out}.mp4"),
]


@pytest.mark.parametrize("arguments", OUTPUTS, ids=[f"{command[0]} {command[2]}" for command in OUTPUTS])
def test_a_file_that_cannot_be_written_is_said_before_a_server_is_asked(arguments, tmp_path, capsys, monkeypatch):
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"whatever")
    monkeypatch.chdir(tmp_path)
    for out, said in ((tmp_path / "nowhere" / "out", "its folder is not there"), (tmp_path / "taken", "is a folder")):
        names = {"picture": picture, "folder": tmp_path, "out": out}
        filled = [argument.format(**names) for argument in arguments]
        if out.name == "taken":
            Path(filled[-1]).mkdir()
        assert cli.main([*filled, "--url", "grpc://127.0.0.1:9"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"sparseinst-client: {filled[-1]}: ")
        assert said in error


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_who_asks_at_the_wrong_port_is_told_which_are_usual(scheme, urls, capsys):
    other = urls["http" if scheme == "grpc" else "grpc"]
    for url in (f"{scheme}://127.0.0.1:9", f"{scheme}://{other.partition('://')[2]}"):
        assert cli.main(["health", "--retries", "0", "--url", url]) == 1
        error = capsys.readouterr().err
        assert "8000 for http, 8001 for grpc" in error
        assert error.count("\n") == 1
        assert len(error) < 500


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_are_no_reason_to_break(closed):
    command = f'"$0" -m sparseinst_client.cli health --url http://127.0.0.1:9 --retries 0 {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert ("cannot be reached" in done.stderr) == (closed == ">&-")


def test_it_runs_as_a_module():
    run = [sys.executable, "-m", "sparseinst_client.cli", "health", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("sparseinst-client: ")


def test_headers_reach_the_client_and_no_message(capsys):
    parser = cli.build_parser()
    options = parser.parse_args(["health", "--header", "Authorization: Bearer of:a:token", "--retries", "7"])
    with connect(options) as client:
        settings = client.__getstate__()
    assert settings["headers"] == {"Authorization": "Bearer of:a:token"}
    assert settings["retries"] == 7
    assert "token" not in refused(capsys, "health", "--header", "token")


def test_a_folder_without_pictures_and_a_file_without_a_video_are_one_sentence(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for arguments, said in (
        (["folder", str(tmp_path)], "holds no pictures"),
        (["folder", str(tmp_path / "notes.txt")], "is no folder"),
        (["video", str(tmp_path / "missing.mp4"), "--out", str(tmp_path / "a.mp4")], "missing.mp4: no such file"),
        (["video", str(tmp_path / "broken.mp4"), "--out", str(tmp_path / "a.mp4")], "cannot be opened as a video"),
    ):
        assert cli.main(arguments) == 1
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "notes.txt"]


def test_tracking_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps 'trackers"):
        Tracker(25.0)
