"""What changes a server takes its key, and what listens by TLS takes nobody whom it should not; by a real Triton."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from sparseinst_server import Doors, Tls, TritonServer
from sparseinst_server.doors import GRPC_PREFIX, HEADER

REQUESTS = {  # one for each way to change something: method, path, body
    "load a model": ("POST", "repository/models/sparseinst/load", {}),
    "unload a model": ("POST", "repository/models/sparseinst/unload", {}),
    "list the repository": ("POST", "repository/index", {}),
    "register system shared memory": ("POST", "systemsharedmemory/region/x/register", {"key": "/x", "byte_size": 8}),
    "ask for system shared memory": ("GET", "systemsharedmemory/status", None),
    "register CUDA shared memory": ("POST", "cudasharedmemory/region/x/register", {"byte_size": 8}),
    "write traces to a file": ("POST", "trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    "read trace settings": ("GET", "models/sparseinst/trace/setting", None),
    "write the log to a file": ("POST", "logging", {"log_verbose_level": 1}),
    "read log settings": ("GET", "logging", None),
}


def status(server, method, path, body=None, headers=None) -> tuple[int, str]:
    """HTTP status and body of an answer."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(f"{server.http_url}/v2/{path}", data, headers or {}, method=method)) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_over_http_nobody_changes_the_server_without_its_key(server, request_):
    for headers in ({}, {HEADER: "guess"}, {HEADER: ""}):
        code, said = status(server, *request_, headers)
        assert (code, "This API is restricted" in said) == (403, True), (code, said)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="sparseinst")),
        ("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest()),
        ("SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=8)),
        ("CudaSharedMemoryStatus", service_pb2.CudaSharedMemoryStatusRequest()),
        ("TraceSetting", service_pb2.TraceSettingRequest()),
        ("LogSettings", service_pb2.LogSettingsRequest()),
    ],
)
def test_over_grpc_nobody_changes_the_server_without_its_key(server, method, request_):
    with grpc.insecure_channel(urlsplit(server.grpc_url).netloc) as channel:
        call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)
        for metadata in ((), ((GRPC_PREFIX + HEADER, "guess"),)):
            with pytest.raises(grpc.RpcError) as refused:
                call(request_, metadata=metadata, timeout=10)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "This protocol is restricted" in refused.value.details()


def test_what_clients_need_takes_no_key(server):
    for path in ("health/ready", "models/sparseinst", "models/sparseinst/config", "models/sparseinst/stats"):
        assert status(server, "GET", path)[0] == 200


def certificates(script: Path, folder: Path) -> Path:
    """A fresh authority with a server's and a client's certificate."""
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def script(repo_root) -> Path:
    return repo_root / "deploy" / "tls" / "make_certificates.sh"


@pytest.fixture(scope="module")
def ours(script, tmp_path_factory) -> Path:
    return certificates(script, tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(script, tmp_path_factory) -> Path:
    """As ours, of an authority that nobody trusts."""
    return certificates(script, tmp_path_factory.mktemp("tls") / "strangers")


@pytest.fixture(scope="module")
def mutual(repository, serve_python, ours):
    """A server that takes clients with a certificate of our authority."""
    tls = Tls(ours / "server.crt", ours / "server.key", ours / "ca.crt")
    doors = Doors(open=("shared-memory",), tls=tls)
    with TritonServer(repository, python=serve_python, doors=doors) as running:
        yield running


def answers(url: str, authority: Path, identity: Path | None = None) -> bool:
    """Whether a picture comes through a TLS connection; raises what the client raises."""
    client = tritonclient.grpc.InferenceServerClient(
        urlsplit(url).netloc,
        ssl=True,
        root_certificates=str(authority / "ca.crt"),
        private_key=str(identity / "client.key") if identity else None,
        certificate_chain=str(identity / "client.crt") if identity else None,
    )
    with closing(client):
        image = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[grey_png()]], np.object_))
        result = client.infer("sparseinst", [image], client_timeout=10)
        return result.as_numpy("image_size").tolist() == [[32, 48]]


def grey_png() -> bytes:
    """A picture of 48 x 32 pixels."""
    import cv2

    return cv2.imencode(".png", np.full((32, 48, 3), 128, np.uint8))[1].tobytes()


def test_by_mutual_tls_our_client_is_answered(mutual, ours):
    assert mutual.grpc_url.startswith("grpcs://")
    assert answers(mutual.grpc_url, ours, ours)


def test_by_mutual_tls_a_client_without_certificate_is_refused(mutual, ours):
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        answers(mutual.grpc_url, ours)


def test_by_mutual_tls_a_client_of_another_authority_is_refused(mutual, ours, strangers):
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        answers(mutual.grpc_url, ours, strangers)


def test_a_client_refuses_a_server_of_another_authority(mutual, strangers):
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        answers(mutual.grpc_url, strangers, strangers)


def test_what_comes_without_tls_is_refused(mutual):
    with grpc.insecure_channel(urlsplit(mutual.grpc_url).netloc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)


def test_what_was_opened_is_open_and_the_key_opens_the_rest(mutual):
    assert status(mutual, "GET", "systemsharedmemory/status")[0] == 200
    assert status(mutual, "GET", "logging")[0] == 403
    assert status(mutual, "GET", "logging", headers=mutual.doors.http_headers)[0] == 200


def test_the_command_line_serves_tls_and_takes_the_key_from_its_file(repository, serve_python, ours, tmp_path):
    (tmp_path / "key").write_text("0123456789abcdef\n")
    command = [serve_python, "-m", "sparseinst_server", f"--repository={repository}", f"--log={tmp_path / 'log'}"]
    command += ["--http-port=0", "--grpc-port=0", "--metrics-port=0", f"--admin-key-file={tmp_path / 'key'}"]
    command += [f"--tls-certificate={ours / 'server.crt'}", f"--tls-key={ours / 'server.key'}"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = [process.stdout.readline() for _ in range(6)]
            urls = {line.split()[0]: line.split()[1] for line in said if "://" in line}
            assert answers(urls["gRPC"], ours)
            headers = {HEADER: "0123456789abcdef"}
            with urlopen(Request(f"{urls['HTTP']}/v2/logging", headers=headers)) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", "x"], "TLS wants --tls-certificate and --tls-key"),
        (["--tls-certificate", "nowhere.crt", "--tls-key", "nowhere.key"], "no PEM file at nowhere.crt"),
        (["--admin-key-file", os.devnull], "wanted 16 or more letters and digits"),
    ],
)
def test_doors_that_would_not_shut_are_refused(options, words, capsys):
    from sparseinst_server.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert words in capsys.readouterr().err


def test_the_key_is_never_shown():
    doors = Doors()
    assert doors.key not in repr(doors)
    assert doors.key != Doors().key
