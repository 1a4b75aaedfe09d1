"""The presets for many clients at once: a stream of them gets what one caller of the plain preset gets."""

from __future__ import annotations

import pytest
from under_load import same

from sparseinst_client import Client
from sparseinst_export.repository import assemble
from sparseinst_server import TritonServer


@pytest.fixture(scope="module")
def repository_of_both(repo_root, bundled_model, tmp_path_factory):
    return assemble(
        repo_root / "model_repository",
        bundled_model / "model.onnx",
        bundled_model / "contract.json",
        tmp_path_factory.mktemp("both") / "model_repository",
        int8=bundled_model / "model.int8.onnx",
    )


@pytest.mark.parametrize("preset", ["cpu", "cpu-int8"])
def test_many_at_once_get_what_one_gets(repository_of_both, serve_python, scenes, preset):
    pictures = sorted((scenes / "images").glob("*.jpg"))[:6]
    answers = {}
    for name in (preset, f"{preset}-throughput"):
        with (
            TritonServer(repository_of_both, python=serve_python, config_name=name) as running,
            Client(running.grpc_url) as client,
        ):
            answers[name] = list(client.stream(pictures * 3, in_flight=6))
    alone, many = answers.values()
    assert sum(map(len, alone)) > 0
    assert all(same(one, other) for one, other in zip(alone, many, strict=True))
