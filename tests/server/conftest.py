"""A real Triton with the bundled model, started once for all tests, in the environment that it is served from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparseinst_client import Client
from sparseinst_export.repository import assemble
from sparseinst_runtime import Contract
from sparseinst_runtime.instances import Instances
from sparseinst_server import TritonServer


@dataclass(frozen=True)
class Served:
    """Where the server is and what it serves."""

    http_url: str
    grpc_url: str
    metrics_url: str
    repository: Path
    contract: Contract


@pytest.fixture(scope="session")
def serve_python(repo_root) -> Path:
    """The interpreter of the serving environment: numpy 1, OpenVINO and Triton."""
    python = Path(os.environ.get("SPARSEINST_SERVE_PYTHON", repo_root / ".venv-serve" / "bin" / "python"))
    if not python.exists():
        pytest.fail(
            f"no serving environment at {python}; `make setup` builds it, SPARSEINST_SERVE_PYTHON names another"
        )
    return python


@pytest.fixture(scope="session")
def repository(repo_root, bundled_model, tmp_path_factory) -> Path:
    """A model repository with the bundled model; copy it to change it."""
    out = tmp_path_factory.mktemp("served") / "model_repository"
    return assemble(
        template=repo_root / "model_repository",
        onnx=bundled_model / "model.onnx",
        contract=bundled_model / "contract.json",
        out=out,
    )


@pytest.fixture(scope="session")
def server(repository, bundled_model, serve_python) -> Iterator[Served]:
    """A running server, shared by all tests: leave it as it was."""
    with TritonServer(repository, python=serve_python) as running:
        yield Served(
            http_url=running.http_url,
            grpc_url=running.grpc_url,
            metrics_url=running.metrics_url,
            repository=repository,
            contract=Contract.load(bundled_model / "contract.json"),
        )


@pytest.fixture(scope="session")
def expected(server, scenes) -> dict[bytes, Instances]:
    """What the bundled model finds in three pictures, by the pictures' bytes."""
    pictures = [(scenes / "images" / f"scene_0{number}.jpg").read_bytes() for number in range(3)]
    with Client(server.grpc_url) as client:
        return {picture: client.segment(picture) for picture in pictures}


@pytest.fixture(scope="module", params=["grpc", "http"])
def url(request, server) -> str:
    """The running server, once for each protocol."""
    return server.grpc_url if request.param == "grpc" else server.http_url


@pytest.fixture(scope="module")
def client(url) -> Iterator[Client]:
    """A client of the running server."""
    with Client(url) as client:
        yield client
