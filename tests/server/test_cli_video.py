"""`sparseinst-client video`, `models` and the formats of `image` against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from sparseinst_client import Client
from sparseinst_client.cli import main
from sparseinst_client.draw import overlay
from sparseinst_client.tracking import Tracker
from sparseinst_client.video import Newest, Video
from sparseinst_server import TritonServer
from sparseinst_server.doors import Doors

FRAMES, MARK = 10, 24
MODELS = ("sparseinst", "sparseinst_pixels", "sparseinst_preprocess", "sparseinst_network", "sparseinst_postprocess")


@pytest.fixture(scope="module")
def video(scenes, tmp_path_factory):
    """Frames of a scene that moves, each with its number as the brightness of a mark in the corner."""
    picture = cv2.resize(cv2.imread(str(scenes / "images" / "scene_01.jpg")), (320, 240))
    path = tmp_path_factory.mktemp("video") / "scene.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for number in range(FRAMES):
        frame = np.roll(picture, number, axis=1)
        frame[:MARK, :MARK] = number * 25
        writer.write(frame)
    writer.release()
    return path


def numbers(path):
    """The numbers in the corners of a video's frames."""
    found = []
    for frame in Video(str(path)):
        found.append(round(float(frame[4 : MARK - 8, 4 : MARK - 8].mean()) / 25))
    return found


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_every_frame_of_a_file_comes_out_painted_and_in_order(ending, server, video, tmp_path, capsys):
    out = tmp_path / f"painted{ending}"
    assert main(["video", str(video), "--out", str(out), "--url", server.grpc_url, "--in-flight", "3"]) == 0
    assert f"{FRAMES} frames: {out}" in capsys.readouterr().out
    assert numbers(out) == list(range(FRAMES))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    with Client(server.grpc_url) as client:
        for before, after in zip(Video(str(video)), Video(str(out)), strict=True):
            rgb = cv2.cvtColor(before, cv2.COLOR_BGR2RGB)
            found = client.segment(cv2.imencode(".jpg", before, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
            painted = cv2.cvtColor(overlay(rgb, found, client.classes), cv2.COLOR_RGB2BGR)
            assert len(found) > 0
            off = [np.abs(after.astype(int) - other).mean() for other in (painted, before)]
            assert off[0] < off[1] / 2, off


def test_a_file_as_a_camera_loses_frames_by_count_and_keeps_the_order(server, video, tmp_path, capsys):
    out = tmp_path / "painted.avi"
    arguments = ["--url", server.grpc_url, "--in-flight", "1", "--live"]
    assert main(["video", str(video), "--out", str(out), *arguments]) == 0
    written = numbers(out)
    said = capsys.readouterr().out
    assert f"{len(written)} frames, {FRAMES - len(written)} of {FRAMES} that came were dropped" in said
    assert written == sorted(set(written))


def test_a_camera_that_is_faster_keeps_only_the_newest_frame():
    taken = []
    newest = Newest(iter([np.full((2, 2, 3), number, np.uint8) for number in range(200)]))
    for frame in newest:
        taken.append(int(frame[0, 0, 0]))
        time.sleep(0.01)
    newest.close()
    assert newest.seen == 200 == len(taken) + newest.dropped
    assert newest.dropped > 0
    assert taken == sorted(taken)
    assert taken[-1] == 199


def test_a_server_that_is_away_leaves_no_video(video, tmp_path, capsys):
    out = tmp_path / "painted.mp4"
    assert main(["video", str(video), "--out", str(out), "--url", "grpc://127.0.0.1:9", "--retries", "0"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_frames_can_be_bounded(server, video, tmp_path):
    out = tmp_path / "painted.avi"
    assert main(["video", str(video), "--out", str(out), "--url", server.http_url, "--max-frames", "3"]) == 0
    assert numbers(out) == [0, 1, 2]


def test_an_instance_keeps_its_number(server, video):
    tracker, seen = Tracker(10.0), []
    with Client(server.grpc_url) as client:
        for frame in Video(str(video)):
            found = client.segment(np.ascontiguousarray(frame[..., ::-1])).filter(min_score=0.6)
            tracks = tracker.numbers(found)
            assert tracks.shape == (len(found),)
            seen.append(dict(zip(tracks.tolist(), found.labels.tolist(), strict=True)))
    steady = set(seen[2]) & set(seen[-1]) - {-1}
    assert steady
    assert all(seen[2][track] == seen[-1][track] for track in steady)


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
def test_models_lists_what_is_served_and_what_it_knows(protocol, server, capsys):
    assert main(["models", "--url", getattr(server, protocol)]) == 0
    said = capsys.readouterr().out
    assert "does not show its repository" in said
    for model in MODELS:
        assert re.search(rf"{model} +│ +│ READY", said), said
    assert f"classes: {len(server.contract.classes)}: {server.contract.classes[0]}" in said


@pytest.mark.slow
def test_models_lists_the_repository_of_a_server_that_shows_it(repository, serve_python, capsys):
    with TritonServer(repository, python=serve_python, doors=Doors(open=("model-repository",))) as running:
        for url in (running.grpc_url, running.http_url):
            assert main(["models", "--url", url]) == 0
            said = capsys.readouterr().out
            for model in MODELS:
                assert re.search(rf"{model} +│ 1 +│ READY", said), said


def test_models_says_which_model_is_not_there(server, capsys):
    assert main(["models", "--url", server.grpc_url, "--model", "other"]) == 1
    assert "other" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["health"], ["models"]])
def test_a_reader_that_leaves_ends_a_command_without_a_word(command, server):
    run = [sys.executable, "-m", "sparseinst_client.cli", *command, "--url", server.grpc_url]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before there is anything to read
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_image_names_the_picture_that_the_server_refuses(server, tmp_path, capsys):
    picture = tmp_path / "notes.jpg"
    picture.write_bytes(b"no picture")
    assert main(["image", str(picture), "--url", server.http_url]) == 1
    assert capsys.readouterr().err.startswith(f"sparseinst-client: {picture}: got data that starts with")


def test_image_writes_the_formats_of_other_tools(server, scenes, tmp_path, expected, capsys):
    picture = scenes / "images" / "scene_00.jpg"
    labelme, yolo = tmp_path / "a.json", tmp_path / "a.txt"
    arguments = ["--labelme", str(labelme), "--yolo", str(yolo), "--url", server.http_url]
    assert main(["image", str(picture), *arguments]) == 0, capsys.readouterr().err
    found = expected[picture.read_bytes()]
    assert yolo.read_text() == found.to_yolo()
    assert json.loads(labelme.read_text()) == found.to_labelme("scene_00.jpg", server.contract.classes)
