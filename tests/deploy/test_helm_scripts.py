"""The scripts that the chart's containers run, each as far as it goes without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chart import CHART, deployment, flags, needs_helm, triton

from sparseinst_export.repository_check import repository_problems
from sparseinst_server.doors import HEADER, SHUT

FILES = CHART / "files"


@pytest.fixture
def root(tmp_path, repo_root, bundled_model):
    """What a container of the server's image sees, below a folder: the image's own, and the model."""
    image = tmp_path / "opt" / "sparseinst"
    image.mkdir(parents=True)
    (image / "model_repository").symlink_to(repo_root / "model_repository")
    (image / "build_engine").symlink_to(repo_root / "deploy" / "build_engine")
    (tmp_path / "models").mkdir()
    (tmp_path / "model").mkdir()
    for name in ("model.onnx", "contract.json"):
        (tmp_path / "model" / name).symlink_to(bundled_model / name)
    return tmp_path


def run(root, name, *arguments, **variables):
    """Run a script with the paths of a container turned into those below the folder."""
    text = (FILES / name).read_text()
    for path in ("/opt/sparseinst", "/models/repository", "/model", "/engines", "/admin/key"):
        for before in "= ":
            text = text.replace(f"{before}{path}", f"{before}{root}{path}")
    (root / name).write_text(text)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
    command = ["sh", str(root / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_init_container_makes_a_repository_that_its_preset_serves(root):
    for _ in range(2):  # a container that is started again finds what the first one left
        ran = run(root, "repository.sh", "cpu", "60")
        assert ran.returncode == 0, ran.stderr
    assert not repository_problems(root / "models" / "repository", "cpu")


@pytest.mark.parametrize(
    ("preset", "missing", "words"),
    [
        ("cpu", "contract.json", "the model has no contract.json; wanted the folder that sparseinst-export onnx wrote"),
        ("cpu", "model.onnx", "the model has no model.onnx"),
        ("cpu-int8", None, "model.int8.onnx"),
        ("tensorrt", None, "cached_plan: "),  # no GPU, or no TensorRT of a server
    ],
)
def test_the_init_container_says_what_is_missing(root, tmp_path, preset, missing, words):
    if missing:
        (root / "model" / missing).unlink()
    ran = run(root, "repository.sh", preset, "60", "--workspace", "4096", PATH=f"{Path(sys.executable).parent}:/bin")
    assert ran.returncode != 0
    assert words in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture
def tritonserver(root):
    """A program in place of Triton that says what it was called with, on PATH."""
    (root / "bin").mkdir()
    program = root / "bin" / "tritonserver"
    program.write_text('#!/bin/sh\necho "$$"\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def restricted(ran):
    return {line.rpartition("=")[0]: line.rpartition("=")[2] for line in ran.stdout.splitlines() if "restrict" in line}


def test_closed_apis_open_to_a_key_that_is_new_at_each_start(root, tritonserver):
    keys = set()
    for _ in range(2):
        ran = run(root, "serve.sh", "trace,logging", "--http-port=8000", PATH=tritonserver)
        said = restricted(ran)
        assert said.keys() == {
            "--http-restricted-api=trace,logging:sparseinst-admin-key",
            "--grpc-restricted-protocol=trace,logging:sparseinst-admin-key",
        }
        (key,) = set(said.values())
        assert len(key) == 64
        keys.add(key)
        assert "--http-port=8000" in ran.stdout.splitlines()
    assert len(keys) == 2


def test_the_key_of_the_secret_is_taken_and_a_short_one_refused(root, tritonserver):
    (root / "admin").mkdir()
    (root / "admin" / "key").write_text("sixteen letters!\n")
    assert set(restricted(run(root, "serve.sh", "trace", PATH=tritonserver)).values()) == {"sixteen letters!"}
    (root / "admin" / "key").write_text("short\n")
    ran = run(root, "serve.sh", "trace", PATH=tritonserver)
    assert ran.returncode != 0
    assert "has 5 letters; wanted at least 16" in ran.stderr


@needs_helm
def test_the_chart_shuts_what_the_local_server_shuts_with_the_same_header():
    assert set(triton(deployment()["spec"]["template"])["args"][0].split(",")) == set(SHUT)
    assert f":{HEADER}=" in (FILES / "serve.sh").read_text()


@needs_helm
def test_triton_is_told_to_serve_what_the_init_container_makes(root):
    pod = deployment()["spec"]["template"]
    builder, server = pod["spec"]["initContainers"][-1], triton(pod)
    assert flags(server)["model-config-name"] == builder["args"][0]
    written = next(each["mountPath"] for each in builder["volumeMounts"] if each["name"] == "repository")
    read = next(each["mountPath"] for each in server["volumeMounts"] if each["name"] == "repository")
    assert written == read
    assert flags(server)["model-repository"].startswith(f"{read}/")
    assert f"repository={flags(server)['model-repository']}\n" in (FILES / "repository.sh").read_text()
