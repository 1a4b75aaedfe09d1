"""The builder of TensorRT plans, run with TensorRT-RTX, which has the same Python API and builds on a CPU.

No TensorRT and no GPU: that a plan of TensorRT itself is built and runs is on the list of docs/gpu.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.progress import Progress

from sparseinst_export.cli import main
from sparseinst_export.commands.tensorrt import describe
from sparseinst_export.gpu import Gpu, GpuMissingError, current_gpu
from sparseinst_export.plan_report import Layer, PlanReport, check_plan, layers_in, report_of, report_path
from sparseinst_export.tensorrt_build import Options, build_plan, configure
from sparseinst_export.tensorrt_network import Profile, add_profile, load, log_of, parse
from sparseinst_export.tensorrt_progress import BuildInterruptedError
from sparseinst_export.tensorrt_version import numbers, runs_on, server_version
from sparseinst_export.verify import ExportError
from sparseinst_runtime import Contract

if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    pytest.skip("TensorRT-RTX has no build for this machine", allow_module_level=True)

import tensorrt_rtx

CONTRACT = Contract(("ant",), (1,), input_size=(32, 32), max_instances=4, max_batch_size=6)
ADA, L4, AMPERE = (
    Gpu("NVIDIA L40S", "8.9", 48 << 30, "13.0"),
    Gpu("NVIDIA L4", "8.9", 24 << 30, "13.0"),
    Gpu("NVIDIA A10", "8.6", 24 << 30, "12.8"),
)


@pytest.fixture(autouse=True)
def no_image(monkeypatch):
    """As outside NVIDIA's images, wherever the tests run."""
    monkeypatch.delenv("TRT_VERSION", raising=False)


@pytest.fixture
def graph(tmp_path):
    """A convolution that carries a contract and says what it is."""
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "weight"], ["answer"], name="filter"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 32, 32, 3])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 4, 30, 30])
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [image], [answer], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.helper.set_model_props(
        model, {"contract": CONTRACT.to_json(), "precision": "fp32", "weights_sha256": "5" * 64}
    )
    onnx.checker.check_model(model, full_check=True)
    folder = tmp_path / "export"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def build(graph, tmp_path):
    """Builds `graph` on no GPU, to `1/model.plan`."""

    def run(progress=None, **options) -> PlanReport:
        return build_plan(
            tensorrt_rtx, None, graph, tmp_path / "1" / "model.plan", Options(**options), progress=progress
        )

    return run


@pytest.fixture
def written(tmp_path):
    """Names of the files in the version folder."""
    folder = tmp_path / "1"
    return lambda: sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class Interrupting(Progress):
    """Bars during whose first step Ctrl-C is pressed."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.threads, self.steps = set(), 0

    def update(self, *arguments, **values):
        self.threads.add(threading.get_ident())
        self.steps += 1
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # the main thread hears it meanwhile
        super().update(*arguments, **values)


class Watched(Progress):
    """Bars that remember the phases they showed and how far each came."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.shown, self.steps = {}, {}

    def add_task(self, description, **values):
        task = super().add_task(description, **values)
        self.shown[task] = (description, values["total"])
        return task

    def update(self, task_id, **values):
        self.steps[task_id] = values["completed"]
        super().update(task_id, **values)


def test_shipped_graph_becomes_a_plan_with_its_report_and_contract(bundled_model, bundled, tmp_path):
    graph, plan = bundled_model / "model.onnx", tmp_path / "1" / "model.plan"
    watched = Watched()
    report = build_plan(tensorrt_rtx, None, graph, plan, progress=watched)
    data = plan.read_bytes()
    assert report.plan_bytes == len(data) > 1_000_000
    assert report.plan_sha256 == hashlib.sha256(data).hexdigest()
    assert report.graph_sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()
    metadata = {entry.key: entry.value for entry in onnx.load(graph).metadata_props}
    assert (report.weights_sha256, report.precision) == (metadata["weights_sha256"], metadata.get("precision"))
    assert report.profile == Profile(1, 4, bundled.max_batch_size)
    assert report.tensorrt == tensorrt_rtx.__version__
    assert (report.gpu, report.layers, report.device_memory) == (None, (), None)
    assert set(report.precisions) == {"fp32"}
    assert Contract.load(plan.with_name("contract.json")) == bundled
    assert report_of(plan) == report
    # The bars: phases within phases, none beyond its steps, all of them closed.
    assert next(iter(watched.shown.values()))[0] == "Building engine"
    assert len(watched.shown) > 3
    assert all(0 < done <= watched.shown[task][1] for task, done in watched.steps.items())
    assert not watched.tasks


def test_ctrl_c_ends_the_build_and_nothing_is_written(build, written):
    bars = Interrupting()
    with pytest.raises(BuildInterruptedError, match="nothing was written"):
        build(bars)
    assert written() == []
    assert bars.steps == 1
    assert threading.main_thread().ident not in bars.threads  # so that the main thread can hear a signal at any time
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert build().plan_bytes > 0  # and nothing is left behind that disturbs the next build


def test_profile_follows_the_contract_and_the_options(build):
    assert build().profile == Profile(1, 4, CONTRACT.max_batch_size)
    report = build(smallest=2, usual=3, largest=4)
    assert report.profile == Profile(2, 3, 4)
    assert any("takes up to 4 pictures, its contract promises 6" in note for note in report.notes)
    with pytest.raises(ExportError, match="batch sizes are 1, 9, 6; wanted 1 <= smallest"):
        build(usual=9)


def test_batch_sizes_reach_the_optimisation_profile(graph):
    _, logger = log_of(tensorrt_rtx)
    builder = tensorrt_rtx.Builder(logger)
    parsed = parse(tensorrt_rtx, builder, logger, load(graph), graph)
    config = builder.create_builder_config()
    shapes = add_profile(builder, config, parsed.network, Profile(2, 3, 4))
    assert [tuple(shape) for shape in shapes.get_shape("image")] == [(size, 32, 32, 3) for size in (2, 3, 4)]
    assert config.num_optimization_profiles == 1


def test_a_graph_of_one_batch_size_gets_no_other(build, graph):
    model = onnx.load(graph)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, graph)
    assert build().profile == Profile(3, 3, 3)
    with pytest.raises(ExportError, match="takes batches of 3 only"):
        build(largest=6)


def test_contract_beside_the_graph_serves_a_graph_without_one(build, graph):
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, graph)
    with pytest.raises(ValueError, match="no contract at"):
        build()
    graph.with_name("contract.json").write_text(CONTRACT.to_json())
    report = build()
    assert report.profile.largest == CONTRACT.max_batch_size
    assert (report.precision, report.weights_sha256) == (None, None)


def test_timing_cache_is_written(build, tmp_path):
    """That the next build takes it needs a GPU: without one, TensorRT-RTX reads no cache at all."""
    cache = tmp_path / "caches" / "timing.cache"
    assert not any("timing cache" in note for note in build(timing_cache=cache).notes)
    assert cache.stat().st_size > 0


def test_timing_cache_that_is_not_taken_is_named_and_replaced(build, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"not a timing cache at all")
    report = build(timing_cache=cache)
    (note,) = [note for note in report.notes if "timing cache" in note]
    assert note.startswith(f"TensorRT does not take the timing cache {cache} (Failed to deserialize timing cache.")
    assert note.endswith("kernels were timed anew, and it is replaced")
    assert cache.read_bytes() != b"not a timing cache at all"
    assert report.plan_bytes > 0


def test_options_reach_the_builder_s_configuration_and_the_report(build):
    options = {"tf32": False, "optimisation_level": 1, "workspace_mib": 64, "version_compatible": True}
    flags = tensorrt_rtx.BuilderFlag
    builder = tensorrt_rtx.Builder(log_of(tensorrt_rtx)[1])
    config = builder.create_builder_config()
    configure(tensorrt_rtx, config, Options(**options))
    assert (config.get_flag(flags.TF32), config.get_flag(flags.VERSION_COMPATIBLE)) == (False, True)
    assert config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 1
    assert config.profiling_verbosity == tensorrt_rtx.ProfilingVerbosity.DETAILED
    configure(tensorrt_rtx, config, Options(tf32=True))
    assert config.get_flag(flags.TF32)
    report = build(**options | {"version_compatible": False})
    assert (report.tf32, report.optimisation_level, report.workspace_mib) == (False, 1, 64)
    assert (report.hardware_compatibility, report.version_compatible) == ("none", False)


def test_the_command_tells_what_was_built():
    said = describe(Path("model.plan"), report())
    assert "TensorRT 10.3.0.26 on NVIDIA L40S (compute capability 8.9); hardware compatibility: none" in said
    assert "fp16 (60); smallest, usual, largest batch: 1, 4, 8" in said
    assert said.endswith("\n  a sentence")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hardware": "turing"}, "hardware compatibility is 'turing'; wanted one of none, ampere"),
        ({"optimisation_level": 6}, "the optimisation level is 6; wanted 0 to 5"),
        ({"workspace_mib": 0}, "the workspace is 0 MiB; wanted at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ExportError, match=words):
        Options(**options)


def test_a_refused_graph_is_refused_in_the_words_of_check_tensorrt(build, graph, written):
    model = onnx.load(graph)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Transpose", ["image"], ["turned"], name="to_channels", perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["turned"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["x", "weight"], ["answer"]),
        ]
    )
    onnx.save(model, graph)
    words = r"TensorRT-RTX .* refuses .*model\.onnx: node to_channels \(Transpose\): TensorRT has no uint8 transpose"
    with pytest.raises(ExportError, match=words):
        build()
    assert written() == []


def test_another_version_than_the_server_s_is_refused(build, written, monkeypatch):
    with pytest.raises(
        ExportError, match=r"that of the server 10\.3\.0 \(--server-version\): it would refuse the plan"
    ):
        build(server="10.3.0")
    monkeypatch.setenv("TRT_VERSION", "10.3.0.26")
    with pytest.raises(ExportError, match=r"10\.3\.0\.26 \(TRT_VERSION of this image\)"):
        build()
    assert written() == []
    here = tensorrt_rtx.__version__
    monkeypatch.setenv("TRT_VERSION", here)
    assert build().notes == ()
    monkeypatch.delenv("TRT_VERSION")
    (note,) = build().notes
    assert "which TensorRT will serve is not known here" in note
    assert build(server=".".join(here.split(".")[:3])).notes == ()


@pytest.mark.parametrize(
    ("built", "runtime", "compatible", "holds"),
    [
        ("10.3.0.26", "10.3.0.26", False, True),
        ("10.3.0", "10.3.0.26", False, True),
        ("10.3.0.26", "10.3.0.30", False, False),
        ("10.3.0", "10.4.0", False, False),
        ("10.3.0", "11.1.0.106", True, True),
        ("11.1.0.106", "10.3.0", True, False),
        ("10.3.0.26+cuda12.5", "10.3.0.26-1+cuda12.5", False, True),
    ],
)
def test_plans_run_on_their_version_and_compatible_ones_on_newer(built, runtime, compatible, holds):
    assert runs_on(built, runtime, compatible) is holds


def test_what_is_no_version_is_refused_where_asked_for_and_ignored_in_an_image():
    with pytest.raises(ExportError, match=r"'10\.3' is no version of TensorRT; wanted three or four numbers"):
        server_version("10.3", {})
    assert server_version(None, {"TRT_VERSION": "unknown"}) is None
    assert server_version("11.1.0.106", {"TRT_VERSION": "10.3.0"}).source == "--server-version"
    assert numbers("11.1.0.106") == (11, 1, 0, 106)


def test_an_old_report_is_that_of_another_plan(build, tmp_path):
    build()
    plan = tmp_path / "1" / "model.plan"
    plan.write_bytes(plan.read_bytes() + b"more")
    with pytest.raises(ExportError, match="is the report of another plan"):
        report_of(plan)
    report_path(plan).write_text('{"tensorrt": 3}')
    with pytest.raises(ExportError, match="is no report of a plan"):
        report_of(plan)
    report_path(plan).unlink()
    assert report_of(plan) is None


def report(**changes) -> PlanReport:
    """A report of a plan that was built on a GPU."""
    values = {
        "tensorrt": "10.3.0.26",
        "gpu": ADA,
        "precision": "fp16",
        "precisions": {"fp16": 60},
        "profile": Profile(),
        "hardware_compatibility": "none",
        "version_compatible": False,
        "tf32": True,
        "optimisation_level": 3,
        "workspace_mib": None,
        "graph_sha256": "1" * 64,
        "weights_sha256": None,
        "plan_sha256": "2" * 64,
        "plan_bytes": 10,
        "device_memory": 20,
        "build_seconds": 30.0,
        "notes": ("a sentence",),
        "layers": (Layer("conv", "CaskConvolution", ("Half",)),),
    }
    return PlanReport(**values | changes)


def test_a_report_survives_its_file_also_with_fields_of_later_versions():
    text = report().to_json()
    assert PlanReport.from_json(text, "model.plan.json") == report()
    later = json.dumps(json.loads(text) | {"added_later": 1})
    assert PlanReport.from_json(later, "model.plan.json") == report()


@pytest.mark.parametrize(
    ("changes", "version", "gpu", "words"),
    [
        ({}, "10.4.0", ADA, r"was built by TensorRT 10\.3\.0\.26 and wants it; here is 10\.4\.0"),
        ({"version_compatible": True}, "10.0.1", ADA, r"wants it or newer; here is 10\.0\.1"),
        ({}, "10.3.0.26", AMPERE, r"built on NVIDIA L40S, compute capability 8\.9; this NVIDIA A10 has 8\.6"),
        ({"hardware_compatibility": "same-compute-capability"}, "10.3.0.26", AMPERE, r"compute capability 8\.9"),
        (
            {"hardware_compatibility": "ampere+"},
            "10.3.0.26",
            Gpu("Tesla T4", "7.5", 16 << 30, "12.8"),
            r"for GPUs from compute capability 8\.0 on; this Tesla T4 has 7\.5",
        ),
    ],
)
def test_plans_of_other_versions_and_gpus_are_refused_with_a_sentence(changes, version, gpu, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        check_plan(tmp_path / "model.plan", report(**changes), version, gpu)


def test_plans_that_fit_pass_and_another_model_of_gpu_is_a_hint(tmp_path):
    plan = tmp_path / "model.plan"
    assert check_plan(plan, report(), "10.3.0.26", ADA) is None
    assert check_plan(plan, report(version_compatible=True), "11.1.0.106", ADA) is None
    assert check_plan(plan, report(hardware_compatibility="ampere+"), "10.3.0.26", AMPERE) is None
    assert check_plan(plan, report(hardware_compatibility="same-compute-capability"), "10.3.0.26", L4) is None
    assert "was built on NVIDIA L40S and runs on NVIDIA L4" in check_plan(plan, report(), "10.3.0.26", L4)


def test_layers_are_read_in_both_forms_the_inspector_gives():
    detailed = {
        "Layers": [
            {
                "Name": "conv + relu",
                "LayerType": "CaskConvolution",
                "Outputs": [{"Name": "y", "Format/Datatype": "Half"}],
            },
            "a name alone",
        ],
        "Bindings": ["image"],
    }
    assert layers_in(json.dumps(detailed)) == (
        Layer("conv + relu", "CaskConvolution", ("Half",)),
        Layer("a name alone"),
    )
    with pytest.raises(ExportError, match="in a way not known here"):
        layers_in('{"layers": 3}')


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        ("tensorrt", "the package tensorrt cannot be imported"),
        ("", "no GPU here"),
    ],
)
def test_what_this_machine_lacks_is_said_in_a_sentence(hidden, words, graph, tmp_path):
    """Without the package, and with one (TensorRT-RTX under its name, as version 10) where there is no GPU."""
    if not hidden:
        with pytest.raises(GpuMissingError, match=r"no GPU here: .*a plan is built on the GPU that serves it"):
            current_gpu()
    program = (
        "import sys\n"
        f"sys.modules['tensorrt'] = None if {hidden!r} else __import__('tensorrt_rtx')\n"
        "if sys.modules['tensorrt']: sys.modules['tensorrt'].__version__ = '10.0.0'\n"
        "from sparseinst_export.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "model.plan"
    command = [sys.executable, "-c", program, "tensorrt", "--onnx", str(graph), "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not out.exists()


def test_the_command_refuses_wrong_options_before_it_looks_for_a_gpu(capsys):
    assert main(["tensorrt", "--onnx", "m.onnx", "--out", "m.plan", "--optimisation-level", "9"]) == 1
    assert "the optimisation level is 9; wanted 0 to 5" in capsys.readouterr().err
