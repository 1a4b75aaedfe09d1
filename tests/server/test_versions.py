"""A real Triton in front of which a repository changes: the next version, the one before, another preset."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import onnx
import pytest

from sparseinst_client import Client
from sparseinst_export.layout import MODELS, NETWORK, find_template
from sparseinst_export.presets import engine_files
from sparseinst_export.repository import assemble
from sparseinst_export.versions import add_version, roll_back, roll_forward
from sparseinst_runtime import Contract
from sparseinst_server import ServerError, TritonServer


@pytest.fixture(scope="module")
def halved(bundled_model, tmp_path_factory) -> Path:
    """The bundled graph with half of every score: a network that answers otherwise, and so that it can be told."""
    graph = onnx.load(bundled_model / "model.onnx")
    producer = next(node for node in graph.graph.node if "scores" in node.output)
    producer.output[list(producer.output).index("scores")] = "whole"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "half"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["whole", "half"], ["scores"]))
    path = tmp_path_factory.mktemp("halved") / "model.onnx"
    onnx.save(graph, path)
    return path


@pytest.fixture
def models(repository, tmp_path) -> Path:
    """A copy of the repository, with version 1, to be changed."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


@pytest.fixture(scope="module")
def picture(scenes) -> bytes:
    return (scenes / "images" / "scene_01.jpg").read_bytes()


class Caller(threading.Thread):
    """Asks for one picture again and again, and notes what fails."""

    def __init__(self, url: str, picture: bytes) -> None:
        super().__init__(daemon=True)
        self.url, self.picture = url, picture
        self.best = 0.0
        self.answers = 0
        self.failures: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        with Client(self.url) as client:
            while not self.over.wait(0.02):
                try:
                    self.best = float(client.segment(self.picture, score_threshold=0.05).scores[0])
                    self.answers += 1
                except Exception as error:  # whatever it is, the test says so
                    self.failures.append(repr(error))

    def __enter__(self) -> Caller:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.join()


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


def ask(server: TritonServer, path: str) -> list:
    url, key = f"{server.http_url}/v2/repository/{path}", server.doors.http_headers
    with urlopen(Request(url, data=b"{}", headers=key, method="POST")) as answer:
        return json.loads(answer.read() or b"[]")


def take_up(server: TritonServer, control: str) -> None:
    """Tell Triton to load what lies there; one that polls finds it by itself."""
    for model in reversed(MODELS) if control == "explicit" else ():
        ask(server, f"models/{model}/load")


def serves(server: TritonServer, version: int, contract: Contract) -> bool:
    """Whether all models are ready in one version and no other, and clients are told its contract."""
    ready = {(row["name"], row["version"]) for row in ask(server, "index") if row.get("state") == "READY"}
    if ready != {(model, str(version)) for model in MODELS}:
        return False
    with Client(server.grpc_url) as client:
        return client.contract() == contract


@pytest.mark.parametrize("control", ["poll", "explicit"])
def test_a_version_is_served_and_taken_back_without_a_failed_request(
    models, halved, picture, serve_python, bundled_model, control
):
    old = Contract.load(bundled_model / "contract.json")
    new = replace(old, name="halved", score_threshold=0.15)
    with (
        TritonServer(models, control=control, python=serve_python) as server,
        Caller(server.grpc_url, picture) as caller,
    ):
        assert wait_until(lambda: caller.answers > 0)
        whole = caller.best
        changes = (
            (lambda: add_version(find_template(), new, engine_files(halved), models), 2, new, whole / 2),
            (lambda: roll_back(models), 1, old, whole),
            (lambda: roll_forward(models), 2, new, whole / 2),
        )
        for change, version, contract, score in changes[: 3 if control == "poll" else 2]:  # seconds each
            change()
            take_up(server, control)
            assert wait_until(lambda: serves(server, version, contract)), ask(server, "index")  # noqa: B023
            answers = caller.answers
            assert wait_until(lambda: caller.answers > answers + 1)  # noqa: B023 - one that was sent since then
            assert caller.best == pytest.approx(score, abs=1e-5)
        assert not caller.failures
    assert caller.answers > 10


def test_a_damaged_version_leaves_the_old_one_in_service(models, halved, picture, serve_python, bundled_model):
    contract = Contract.load(bundled_model / "contract.json")
    with TritonServer(models, control="explicit", python=serve_python) as server, Client(server.grpc_url) as client:
        before = client.segment(picture)
        add_version(find_template(), contract, engine_files(halved), models)
        graph = models / NETWORK / "2" / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1])
        with pytest.raises(OSError, match="400"):
            take_up(server, "explicit")
        states = {row["version"]: row for row in ask(server, "index") if row["name"] == NETWORK}
        assert states["1"]["state"] == "READY"
        assert (
            "model.onnx of version 2 of sparseinst_network is not the file that was assembled" in states["2"]["reason"]
        )
        after = client.segment(picture)
        np.testing.assert_array_equal(after.scores, before.scores)


def test_a_preset_serves_its_own_graph(server, halved, picture, serve_python, bundled_model, tmp_path):
    """The mechanism only: what stands in for a quantised graph is one that gives half of every score."""
    files = bundled_model / "model.onnx", bundled_model / "contract.json"
    models = assemble(find_template(), *files, tmp_path / "models", int8=halved)
    with (
        TritonServer(models, config_name="cpu-int8", python=serve_python) as other,
        Client(other.grpc_url) as quantised,
        Client(server.grpc_url) as client,
    ):
        best = [each.segment(picture, score_threshold=0.05).scores[0] for each in (client, quantised)]
    assert best[1] == pytest.approx(best[0] / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("cpu-int8", r"preset 'cpu-int8' serves model\.int8\.onnx, which version 1 .* again with --int8"),
        ("tensorrt", r"preset 'tensorrt' serves model\.plan, which version 1 .* again with --plan"),
        ("gpu", "no preset 'gpu' in the repository, and Triton would serve the default instead; wanted cpu, "),
    ],
)
def test_a_preset_that_cannot_be_served_is_refused_before_triton_starts(repository, serve_python, preset, words):
    with pytest.raises(ServerError, match=words):
        TritonServer(repository, config_name=preset, python=serve_python).__enter__()
