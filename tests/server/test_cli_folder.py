"""`sparseinst-client folder` against a real server: killed and gone on with, nothing is lost, nothing there twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_pictures import fill

from sparseinst_client import Client
from sparseinst_client.cli import main
from sparseinst_client.journal import Journal


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kill_after(arguments, out, count):
    """Start the command in a process of its own and kill it once it wrote so many lines."""
    command = [sys.executable, "-m", "sparseinst_client.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (out.exists() and out.read_bytes().count(b"\n") >= count):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def killed_and_gone_on_with(url, tmp_path, scenes, number, kills):
    names = fill(tmp_path / "pictures", scenes, number)
    out, coco = tmp_path / "found.jsonl", tmp_path / "found.json"
    arguments = ["folder", str(tmp_path / "pictures"), "--url", url, "--out", str(out), "--in-flight", "4"]
    for share in range(1, kills + 1):
        kill_after(arguments, out, number * share // (kills + 1))
    assert 0 < len(out.read_bytes().splitlines()) < number
    assert main([*arguments, "--coco", str(coco)]) == 0
    found = lines(out)
    assert [row["file_name"] for row in found] == names
    assert len(COCO(str(coco)).getImgIds()) == number
    return found, coco


def test_a_folder_that_was_killed_goes_on_without_loss(server, tmp_path, scenes, capsys):
    found, coco = killed_and_gone_on_with(server.grpc_url, tmp_path, scenes, 36, 1)
    assert "were there already" in capsys.readouterr().out
    truth = COCO(str(coco))
    with Client(server.grpc_url) as client:
        for number, row in enumerate(found[::6]):
            wanted = client.segment(tmp_path / "pictures" / row["file_name"])
            assert (row["height"], row["width"]) == wanted.image_size == (96, 128)
            assert [one["class"] for one in row["instances"]] == [client.classes[label] for label in wanted.labels]
            for one, mask in zip(row["instances"], wanted.masks(), strict=True):
                np.testing.assert_array_equal(coco_mask.decode(one["segmentation"]).astype(bool), mask)
                assert one["area"] == mask.sum()
            image_id = next(row_["id"] for row_ in truth.dataset["images"] if row_["file_name"] == row["file_name"])
            assert len(truth.getAnnIds(imgIds=[image_id])) == len(wanted), number
    assert sum(len(row["instances"]) for row in found) == len(truth.dataset["annotations"]) > 0


@pytest.mark.slow
def test_two_thousand_pictures_survive_three_kills(server, tmp_path, scenes):
    killed_and_gone_on_with(server.http_url, tmp_path, scenes, 2000, 3)


def test_bad_pictures_are_listed_once_and_do_not_stop_the_rest(server, tmp_path, scenes, capsys):
    names = fill(tmp_path / "pictures", scenes, 6)
    bad = tmp_path / "pictures" / "a" / "00001.png"
    bad.write_bytes(b"no picture")
    (tmp_path / "pictures" / "empty.jpg").touch()
    out = tmp_path / "found.jsonl"
    arguments = ["folder", str(tmp_path / "pictures"), "--url", server.grpc_url, "--out", str(out)]
    for _ in range(2):
        assert main(arguments) == 3
        errors = capsys.readouterr().err
        assert "a/00001.png: got data that starts with" in errors
        assert "2 pictures cannot be segmented" in errors
    assert Counter("error" in row for row in lines(out)) == {False: 6, True: 2}
    assert sorted(row["file_name"] for row in lines(out) if "error" not in row) == names


def test_a_server_that_is_away_leaves_the_rest_to_the_next_run(server, tmp_path, scenes, capsys):
    names = fill(tmp_path / "pictures", scenes, 4)
    out = tmp_path / "found.jsonl"
    arguments = ["folder", str(tmp_path / "pictures"), "--out", str(out)]
    assert main([*arguments, "--url", "grpc://127.0.0.1:9", "--retries", "0"]) == 1
    assert capsys.readouterr().err.startswith("sparseinst-client: grpc://127.0.0.1:9 cannot be reached")
    assert main([*arguments, "--url", server.grpc_url, "--timeout", "0.001", "--retries", "0"]) == 1
    assert not (out.exists() and out.read_bytes())
    assert main([*arguments, "--url", server.grpc_url]) == 0
    assert [row["file_name"] for row in lines(out)] == names


def test_a_file_is_gone_on_with_in_the_same_way_only(server, tmp_path, scenes, capsys):
    fill(tmp_path / "pictures", scenes, 2)
    arguments = ["folder", str(tmp_path / "pictures"), "--url", server.grpc_url, "--out", str(tmp_path / "found.jsonl")]
    assert main(arguments) == 0
    before = (tmp_path / "found.jsonl").read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--score-threshold", "0.9"]) == 1
    assert "was begun with score_threshold None, now 0.9" in capsys.readouterr().err
    assert (tmp_path / "found.jsonl").read_bytes() == before


def test_half_a_line_is_taken_away_and_a_second_writer_is_sent_away(tmp_path):
    path = tmp_path / "found.jsonl"
    with Journal(path, {"model": "m"}) as journal:
        journal.append({"file_name": "a.jpg"})
        with pytest.raises(ValueError, match="another run writes to"):
            Journal(path, {"model": "m"})
    with path.open("ab") as file:
        file.write(b'{"file_name":"' + b"b" * 100_000)
    with Journal(path, {"model": "m"}) as journal:
        journal.append({"file_name": "c.jpg"})
        assert [row["file_name"] for row in journal.rows()] == ["a.jpg", "c.jpg"]
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    with Journal(path, {"model": "m"}) as journal, pytest.raises(ValueError, match="line 3 is no result"):
        list(journal.rows())
    (tmp_path / "found.jsonl.run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json beside it is not"):
        Journal(path, {"model": "m"})
