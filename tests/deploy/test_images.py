"""The images: clean Dockerfiles, locked packages, no rights; and what a container does before it serves."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

IMAGES = ("server", "cpu", "training")
EXTRAS = {"server": (), "cpu": ("serve",), "training": ("train",)}


@pytest.fixture(scope="module")
def docker(repo_root) -> Path:
    return repo_root / "deploy" / "docker"


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(FROM, ...), (RUN, ...): lines that go on are joined, comments left out."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(docker, image):
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([hadolint, docker / f"{image}.Dockerfile"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_in_stages_pinned_labelled_without_rights_and_without_compilers(docker, image):
    steps = instructions(docker / f"{image}.Dockerfile")
    base = next(rest for word, rest in steps if word == "ARG").partition("=")[2]
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3|debian:\d+-slim", base)
    assert sum(word == "FROM" for word, _ in steps) == 2
    last = steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM") :]
    assert any(word == "RUN" and "remove_compilers.sh" in rest for word, rest in last)
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    labels = " ".join(rest for word, rest in last if word == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    health = next(rest for word, rest in last if word == "HEALTHCHECK")
    assert ("probe.py" in health) == (image != "training")
    assert all(json.loads(rest) for word, rest in last if word == "ENTRYPOINT"), "a list: no shell in between"


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_of_an_image_is_locked_with_hashes_within_the_ranges_of_the_project(docker, repo_root, image):
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", lock_of(docker, image), re.M))
    assert len(locked) == lock_of(docker, image).count("==")
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in EXTRAS[image] for r in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name]), f"{requirement}; run ci/lock_images.sh"


def lock_of(docker: Path, image: str) -> str:
    return (docker / f"{image}.lock").read_text()


def test_the_cpu_image_has_the_triton_that_the_tests_run(docker, repo_root):
    version = re.search(r"PYTRITON=nvidia-pytriton==(\S+)", (repo_root / "ci" / "setup.sh").read_text())[1]
    assert f"nvidia-pytriton=={version} " in lock_of(docker, "triton")


def test_what_an_image_has_besides_packages_is_laid_out_from_the_source(repo_root, docker, tmp_path):
    subprocess.run([docker / "layout.sh", tmp_path / "opt"], cwd=repo_root, check=True)
    for file in ("run", "serve.sh", "probe.py", "build_engine/cached_plan.py", "models/animals/model.onnx"):
        assert (tmp_path / "opt" / file).is_file()
    assert (tmp_path / "opt" / "model_repository" / "sparseinst" / "config.pbtxt").is_file()
    assert os.access(tmp_path / "opt" / "run", os.X_OK)
    assert not list((tmp_path / "opt").rglob("__pycache__"))


@pytest.fixture
def node(tmp_path):
    """PATH of a node: stand-ins that speak as nvidia-smi and trtexec do, the latter noting each build."""
    (tmp_path / "bin").mkdir()
    programs = {
        "nvidia-smi": "echo 'NVIDIA L40S, 8.9, 46068'",
        "trtexec": 'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v110100]"\n'
        'for a; do case $a in --saveEngine=*) echo plan > "${a#*=}" ;; esac; done\n'
        f'echo built >> {tmp_path / "builds"}\nexit "${{TRTEXEC_STATUS:-0}}"',
    }
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def find(repo_root, bundled_model, node):
    """Runs cached_plan.py on that node; gives the finished process."""
    shutil.copytree(bundled_model, node / "model", ignore=lambda folder, names: {n for n in names if "." not in n})

    def call(*options, tensorrt="11.1.0.106", **variables):
        script = repo_root / "deploy" / "build_engine" / "cached_plan.py"
        command = [sys.executable, "-I", "-S", "-c", f"import runpy, sys; sys.path.insert(0, {str(script.parent)!r}); "]
        command[-1] += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        command += [script, "--onnx", node / "model" / "model.onnx", "--cache", node / "engines", "--", *options]
        environment = {"PATH": f"{node / 'bin'}:/usr/bin:/bin", "TRT_VERSION": tensorrt} | variables
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return call


def builds(node: Path) -> int:
    return len((node / "builds").read_text().splitlines()) if (node / "builds").exists() else 0


def test_a_plan_is_built_once_for_a_gpu_a_tensorrt_a_graph_and_options(find, node):
    first = find("--by", "trtexec")
    assert first.returncode == 0, first.stderr
    plans = Path(first.stdout.strip())
    assert plans.parent.name.startswith("8.9-nvidia-l40s-tensorrt11.1.0-")
    assert json.loads(plans.read_text()) == {"8.9": "model.8.9.plan"}
    again = find("--by", "trtexec")
    assert (again.stdout, builds(node)) == (first.stdout, 1)

    smi = node / "bin" / "nvidia-smi"
    others = {first.stdout, find("--by", "trtexec", "--no-tf32").stdout}
    smi.write_text(smi.read_text().replace("L40S", "L4"))
    others.add(find("--by", "trtexec").stdout)
    (node / "model" / "model.onnx").write_bytes(b"another graph")
    others.add(find("--by", "trtexec").stdout)
    assert len(others) == 4
    assert builds(node) == 4


def test_another_tensorrt_than_the_servers_is_refused(find, node):
    ran = find("--by", "trtexec", tensorrt="11.2.0")
    assert ran.returncode == 1
    assert "trtexec is of TensorRT 11.1.0, the server of 11.2.0" in ran.stderr
    assert not list((node / "engines").glob("[!.]*"))


@pytest.mark.parametrize("damage", ["plan", "report", "plans.json"])
def test_a_damaged_plan_is_built_anew(find, node, damage):
    plans = Path(find("--by", "trtexec").stdout.strip())
    file = {"plan": "model.8.9.plan", "report": "model.8.9.plan.json", "plans.json": "plans.json"}[damage]
    (plans.parent / file).write_bytes(b"half")
    assert find("--by", "trtexec").returncode == 0
    assert builds(node) == 2
    assert find("--by", "trtexec").returncode == 0
    assert builds(node) == 2


def test_a_build_that_fails_leaves_nothing_that_could_be_taken(find, node):
    assert find("--by", "trtexec", TRTEXEC_STATUS="1").returncode == 1
    assert not list((node / "engines").glob("[!.]*"))
    assert not list((node / "engines").glob("*.tmp"))


def test_two_containers_that_start_together_build_once(find, node):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: find("--by", "trtexec"), range(2)))
    assert [ran.returncode for ran in both] == [0, 0]
    assert both[0].stdout == both[1].stdout
    assert builds(node) == 1


def test_the_repository_takes_a_cached_plan(find, node):
    from sparseinst_export.presets import read_plans

    plans = read_plans(Path(find("--by", "trtexec").stdout.strip()))
    assert hashlib.sha256(plans["8.9"].read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("image", ["cpu", "training"])
def test_an_image_builds_and_runs_without_docker(repo_root, image):
    """Minutes and gigabytes; wants root, buildah and mmdebstrap: `make test ARGS="-m slow tests/deploy"`."""
    ran = subprocess.run([repo_root / "ci" / "try_image.sh", image], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
