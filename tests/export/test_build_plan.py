"""deploy/build_engine/build_plan.py, as far as it runs without Triton's image and without a GPU.

That it finds what it looks for inside the image, and that trtexec builds, is on the list of docs/gpu.md.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys

import pytest

from sparseinst_export.plan_report import HARDWARE, PlanReport, report_of, report_path
from sparseinst_export.tensorrt_network import Profile


@pytest.fixture(scope="module")
def script(repo_root):
    return repo_root / "deploy" / "build_engine" / "build_plan.py"


@pytest.fixture(scope="module")
def module(script):
    """The script as a module, with its neighbour as Python finds it for a script."""
    sys.path.insert(0, str(script.parent))
    try:
        spec = importlib.util.spec_from_file_location("build_plan", script)
        loaded = importlib.util.module_from_spec(spec)
        sys.modules["build_plan"] = loaded
        spec.loader.exec_module(loaded)
        yield loaded
    finally:
        sys.path.remove(str(script.parent))


@pytest.fixture
def run(script, tmp_path):
    """Runs the script as in an image that has Python alone: no packages, no variables of ours, no GPU."""

    def call(*arguments, path=None, **variables):
        command = [sys.executable, "-I", "-S", "-c", f"import runpy, sys; sys.path.insert(0, {str(script.parent)!r}); "]
        command[-1] += (
            f"sys.argv = {[str(script), *map(str, arguments)]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        environment = {"PATH": str(path or tmp_path)} | variables
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return call


@pytest.fixture
def graph(tmp_path, bundled_model):
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"bytes of a graph")
    (folder / "contract.json").write_bytes((bundled_model / "contract.json").read_bytes())
    return folder / "model.onnx"


def test_a_dry_run_prints_trtexec_s_command_with_the_contract_s_shapes(run, graph, tmp_path):
    ran = run(
        "--onnx",
        graph,
        "--out",
        tmp_path / "plans",
        "--dry-run",
        "--compute-capability",
        "8.9",
        "--server-version",
        "10.3.0",
        "--by",
        "trtexec",
        "--workspace",
        "2048",
        "--no-tf32",
        "--hardware-compatibility",
        "same-compute-capability",
        "--version-compatible",
        "--batch-max",
        "6",
    )
    assert ran.returncode == 0, ran.stderr
    command = shlex.split(ran.stdout)
    assert command[0] == "/usr/src/tensorrt/bin/trtexec"
    assert set(command[1:]) == {
        f"--onnx={graph}",
        f"--saveEngine={tmp_path / 'plans' / 'model.8.9.plan'}",
        "--stronglyTyped",
        "--minShapes=image:1x320x320x3",
        "--optShapes=image:4x320x320x3",
        "--maxShapes=image:6x320x320x3",
        "--builderOptimizationLevel=3",
        "--hardwareCompatibilityLevel=sameComputeCapability",
        "--profilingVerbosity=detailed",
        "--skipInference",
        "--memPoolSize=workspace:2048M",
        "--versionCompatible",
        "--noTF32",
    }
    assert not (tmp_path / "plans").exists()


def test_height_and_width_of_the_contract_may_differ(run, graph, tmp_path):
    contract = json.loads(graph.with_name("contract.json").read_text())
    graph.with_name("contract.json").write_text(json.dumps(contract | {"input_size": [256, 448], "max_batch_size": 2}))
    ran = run(
        "--onnx",
        graph,
        "--out",
        tmp_path / "plans",
        "--dry-run",
        "--compute-capability",
        "8.9",
        "--server-version",
        "10.3.0",
        "--by",
        "trtexec",
    )
    assert "--optShapes=image:2x256x448x3 --maxShapes=image:2x256x448x3" in ran.stdout


def test_the_command_for_python_is_one_that_our_command_line_takes(module, graph, tmp_path):
    from sparseinst_export.cli import build_parser

    given = ["--onnx", str(graph), "--out", str(tmp_path), "--batch-opt", "2", "--timing-cache", "t.cache", "--no-tf32"]
    given += [
        "--hardware-compatibility",
        "ampere+",
        "--optimisation-level",
        "4",
        "--workspace",
        "9",
        "--version-compatible",
    ]
    options = module.parser().parse_args(given)
    command = module.python_command(options, tmp_path / "model.8.9.plan", "10.3.0")
    assert command[:4] == [sys.executable, "-m", "sparseinst_export.cli", "tensorrt"]
    parsed = build_parser().parse_args(command[3:])
    assert (parsed.out, parsed.server_version) == (tmp_path / "model.8.9.plan", "10.3.0")
    assert (parsed.batch_opt, parsed.batch_max, parsed.workspace, parsed.optimisation_level) == (2, None, 9, 4)
    assert (parsed.hardware_compatibility, parsed.version_compatible, parsed.no_tf32) == ("ampere+", True, True)
    assert str(parsed.timing_cache) == "t.cache"
    assert set(module.HARDWARE) == set(HARDWARE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--compute-capability", "8.9"], "go with --dry-run: a build takes those it finds"),
        (["--batch-opt", "9"], "batch sizes are 1, 9, 8; wanted 1 <= smallest"),
        ([], "no nvidia-smi here, so no GPU: start the container with --gpus all"),
        (["--dry-run", "--compute-capability", "8.9"], "run this inside the image that serves"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_sentence(arguments, words, run, graph, tmp_path):
    ran = run("--onnx", graph, "--out", tmp_path / "plans", *arguments)
    assert ran.returncode == 1
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "plans").exists()


def test_a_missing_graph_or_contract_is_named(run, graph, tmp_path):
    graph.with_name("contract.json").unlink()
    assert "no contract at" in run("--onnx", graph, "--out", tmp_path).stderr
    graph.unlink()
    assert "no graph at" in run("--onnx", graph, "--out", tmp_path).stderr


def test_the_image_s_own_word_counts_where_the_backend_is_not_seen(run, graph, tmp_path):
    ran = run("--onnx", graph, "--out", tmp_path, "--dry-run", "--compute-capability", "8.9", TRT_VERSION="11.1.0.106")
    assert ran.returncode == 0, ran.stderr


def test_versions_are_read_from_a_linked_library_and_from_trtexec(module, tmp_path):
    (tmp_path / "libnvinfer.so.10.3.0").touch()
    (tmp_path / "libnvinfer.so.10").symlink_to("libnvinfer.so.10.3.0")
    listing = f"\tlibc.so.6 => /lib/libc.so.6 (0x0)\n\tlibnvinfer.so.10 => {tmp_path}/libnvinfer.so.10 (0x00007f)\n"
    import triton_image

    assert triton_image.linked_version(listing) == "10.3.0"
    assert triton_image.linked_version("\tlibnvinfer.so.10 => not found\n") is None
    assert [module.trtexec_version(number) for number in ("100300", "110201", "101401")] == [
        "10.3.0",
        "11.2.1",
        "10.14.1",
    ]


def test_the_report_of_trtexec_s_plan_is_one_that_the_plan_s_engine_reads(module, graph, tmp_path):
    options = module.parser().parse_args(["--onnx", str(graph), "--out", str(tmp_path)])
    plan = tmp_path / "model.8.9.plan"
    plan.write_bytes(b"bytes of a plan")
    gpu = module.Gpu("NVIDIA L40S", "8.9", 48 << 30)
    raw = module.report_of(options, module.read_network(graph), gpu, "10.3.0", plan=plan, seconds=3.0)
    module.replace(report_path(plan), json.dumps(raw))
    report = report_of(plan)
    assert isinstance(report, PlanReport)
    assert (report.gpu.compute_capability, report.tensorrt, report.profile) == ("8.9", "10.3.0", Profile(1, 4, 8))


def test_plans_of_several_gpus_are_noted_in_one_file(module, tmp_path):
    for capability in ("8.9", "7.5", "8.9"):
        module.note_plan(tmp_path / "plans.json", capability, f"model.{capability}.plan")
    assert json.loads((tmp_path / "plans.json").read_text()) == {"7.5": "model.7.5.plan", "8.9": "model.8.9.plan"}
    assert [path.name for path in tmp_path.iterdir()] == ["plans.json"]
