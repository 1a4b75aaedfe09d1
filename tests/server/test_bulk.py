"""`sparseinst-client bulk` by a real Ray against a real server: killed and gone on with, every picture once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet
from small_pictures import fill

from sparseinst_client import BadRequest, Client, ServerUnavailable
from sparseinst_client.bulk.fleet import Fleet
from sparseinst_client.folder import picture_row

NOBODY = "grpc://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def ray_folder():
    """Where Ray keeps its sockets, whose paths must be short; removed with Ray's logs."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    shutil.rmtree(folder)


def start(folder, *arguments):
    command = [sys.executable, "-m", "sparseinst_client.cli", "bulk", *map(str, arguments)]
    environment = {**os.environ, "RAY_TMPDIR": folder}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition, process, seconds=240):
    """What the condition gives once it is true; the command must still be running then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def of_ray(folder):
    """Processes of the Ray that has its sockets in this folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        told = " ".join(process.info["cmdline"] or ()), (process.info["environ"] or {}).get("RAY_TMPDIR")
        if folder in told[0] or told[1] == folder:
            found.append(process)
    return found


def parts(out):
    return sorted(out.glob("*.parquet"))


@pytest.mark.slow  # Ray starts twice; beside a whole suite on two cores it may need minutes
def test_killed_it_goes_on_and_has_every_picture_once(server, scenes, tmp_path, ray_folder):
    pictures, out = tmp_path / "pictures", tmp_path / "found"
    names = fill(pictures, scenes, 60)
    (pictures / "a" / "broken.png").write_bytes(b"no picture")
    out.mkdir()
    (out / "notes.txt").write_text("of somebody else")
    urls = ",".join((server.grpc_url, NOBODY, server.http_url))
    arguments = (ray_folder, pictures, "--out", out, "--url", urls, "--share", 3, "--in-flight", 2, "--retries", 0)

    killed = start(*arguments)
    wait_for(lambda: len(parts(out)) >= 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    second = start(*arguments)
    wait_for(lambda: len(parts(out)) >= 10, second)
    workers = wait_for(lambda: [one for one in of_ray(ray_folder) if "MapWorker" in one.name()], second)
    workers[0].kill()
    said, errors = second.communicate(timeout=300)

    assert second.returncode == 3, errors
    assert "were there already" in said
    assert "cannot be reached" in errors
    assert "a/broken.png: got data that starts with" in errors
    tables = [parquet.read_table(path) for path in parts(out)]
    rows = {row["file_name"]: row for row in pa.concat_tables(tables).to_pylist()}
    assert sum(len(table) for table in tables) == len(rows) == len(names) + 1
    assert sorted(rows) == sorted([*names, "a/broken.png"])
    assert rows["a/broken.png"]["instances"] is None
    with Client(server.grpc_url) as client:
        for name in names[::9]:
            wanted = picture_row(name, client.segment(pictures / name), client.classes, client.contract().category_ids)
            got = {key: rows[name][key] for key in wanted}
            for one, other in zip(got["instances"], wanted["instances"], strict=True):
                assert one.pop("bbox") == pytest.approx(other.pop("bbox"), abs=1e-3)
                assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-6)
            assert got == wanted
    assert sum(len(rows[name]["instances"]) for name in names) > 0
    assert json.loads(tables[0].schema.metadata[b"sparseinst"])["classes"] == list(server.contract.classes)
    assert not [process for process in of_ray(ray_folder) if process.is_running()]

    again = start(*arguments)  # nothing is left: Ray is not even started
    said, errors = again.communicate(timeout=60)
    assert (again.returncode, said) == (3, f"0 pictures segmented, {len(rows)} were there already: {out}\n"), errors


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_fleet_goes_round_a_server_that_is_away(server, scenes, order):
    urls = (NOBODY, server.grpc_url)
    picture = scenes / "images" / "scene_01.jpg"
    with Fleet([Client(urls[one], retries=0) for one in order]) as fleet, Client(server.grpc_url) as client:
        contract, absent = fleet.contract()
        assert contract == client.contract()
        assert [NOBODY in reason for reason in absent] == [True]
        assert len(fleet.segment(picture)) == len(client.segment(picture)) > 0
        with pytest.raises(BadRequest, match="got data that starts with"):
            fleet.segment(b"no picture")


def test_a_fleet_of_servers_that_are_all_away(scenes):
    with Fleet([Client(NOBODY, retries=0), Client("http://127.0.0.1:9", retries=0)]) as fleet:
        with pytest.raises(ServerUnavailable):
            fleet.contract()
        with pytest.raises(ServerUnavailable):
            fleet.segment(scenes / "images" / "scene_01.jpg")


def test_servers_of_different_models_are_no_fleet(server):
    other = replace(server.contract, score_threshold=0.7)
    with (
        Fleet([Client(server.grpc_url)], other) as fleet,
        pytest.raises(ValueError, match=r"classes, score threshold 0\.3\), another server .*0\.7"),
    ):
        fleet.contract()


def test_a_fleet_gives_work_to_the_server_with_the_least_to_do(server):
    clients = [Client(server.grpc_url), Client(server.http_url)]
    with Fleet(clients) as fleet:
        every = {0, 1}
        assert [fleet._take(every) for _ in range(4)] == [0, 1, 0, 1]
        fleet._give_back(1)
        assert fleet._take(every) == 1
