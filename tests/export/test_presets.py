"""Presets: what each of them reads, and what is said before Triton would say it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from sparseinst_export.cli import main
from sparseinst_export.layout import FRONT, NETWORK, RepositoryError, find_template
from sparseinst_export.presets import PRESETS, engine_files, preset_problem, read_plans
from sparseinst_export.repository import assemble

CONFIGS = Path(NETWORK) / "configs"


def parse(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def assemble_from(exported: Path, out: Path, **engines) -> Path:
    return assemble(find_template(), exported / "model.onnx", exported / "contract.json", out, **engines)


@pytest.fixture
def int8(exported) -> Path:
    path = exported / "quantised.onnx"
    path.write_bytes(b"bytes of a quantised graph")
    return path


@pytest.mark.parametrize("model", [FRONT, NETWORK])
@pytest.mark.parametrize(
    ("preset", "graph", "streams"),
    [
        ("cpu-int8", "model.int8.onnx", "1"),
        ("cpu-throughput", "model.onnx", "cores"),
        ("cpu-int8-throughput", "model.int8.onnx", "cores"),
    ],
)
def test_other_cpu_presets_differ_in_graph_and_streams_only(exported, int8, tmp_path, model, preset, graph, streams):
    out = assemble_from(exported, tmp_path / "models", int8=int8)
    cpu, other = (parse(out / model / "configs" / f"{name}.pbtxt") for name in ("cpu", preset))
    assert other.parameters["graph"].string_value == graph
    assert other.parameters["streams"].string_value == streams
    assert (out / model / "1" / graph).is_file()
    for name in ("graph", "streams"):
        other.parameters[name].string_value = cpu.parameters[name].string_value
    assert other == cpu


def test_the_front_door_has_graphs_and_no_plans(exported, int8, tmp_path):
    out = assemble_from(exported, tmp_path / "models", int8=int8, plan=exported / "model.plan")
    assert (out / NETWORK / "1" / "model.plan").is_file()
    assert {path.name for path in (out / FRONT / "1").iterdir()} == {
        *("model.py", "contract.json", "SHA256SUMS"),
        *("model.onnx", "model.int8.onnx"),
    }


def test_tensorrt_by_name_is_the_default(assembled):
    assert parse(assembled / CONFIGS / "tensorrt.pbtxt") == parse(assembled / NETWORK / "config.pbtxt")


def test_plans_go_to_their_gpus(exported, tmp_path):
    plans = {"8.9": exported / "ada", "9.0": exported / "hopper"}
    for name, path in plans.items():
        path.write_bytes(f"plan for {name}".encode())
    out = assemble_from(exported, tmp_path / "models", plans=plans, plan=exported / "model.plan")
    config = parse(out / NETWORK / "config.pbtxt")
    assert dict(config.cc_model_filenames) == {"8.9": "model.8.9.plan", "9.0": "model.9.0.plan"}
    assert config.default_model_filename == "model.plan"
    for name, file in config.cc_model_filenames.items():
        assert (out / NETWORK / "1" / file).read_bytes() == f"plan for {name}".encode()
    assert parse(out / CONFIGS / "tensorrt.pbtxt") == config
    assert preset_problem(out, "tensorrt", 1) is None


def test_plans_of_some_gpus_only_are_enough(exported, tmp_path):
    out = assemble_from(exported, tmp_path / "models", plans={"8.9": exported / "model.plan"})
    assert preset_problem(out, "tensorrt", 1) is None
    assert not (out / NETWORK / "1" / "model.plan").exists()


@pytest.mark.parametrize("capability", ["8", "sm89", "8.9.1", ""])
def test_a_key_that_is_no_compute_capability_is_refused(exported, capability):
    with pytest.raises(RepositoryError, match="is no compute capability of a GPU; wanted one like 8"):
        engine_files(exported / "model.onnx", plans={capability: exported / "model.plan"})


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("cpu-int8", r"serves model\.int8\.onnx, which version 1 .* has not; write the repository again with --int8"),
        ("tensorrt", r"serves model\.plan, which version 1 .* has not; write the repository again with --plan"),
        ("tensorrtt", r"no preset 'tensorrtt' .* wanted cpu, cpu-int8, cpu-int8-throughput, cpu-throughput, onnx"),
    ],
)
def test_a_preset_without_its_engine_is_named_before_triton_starts(exported, tmp_path, preset, words):
    out = assemble_from(exported, tmp_path / "models")
    problem = preset_problem(out, preset, 1)
    assert problem is not None
    assert re.search(words, problem)


def test_every_preset_can_be_served_when_everything_was_given(exported, int8, tmp_path):
    out = assemble_from(exported, tmp_path / "models", int8=int8, plan=exported / "model.plan")
    assert [preset_problem(out, preset, 1) for preset in PRESETS] == [None] * len(PRESETS)
    assert {path.stem for path in (out / CONFIGS).iterdir()} == set(PRESETS)


def test_the_command_takes_plans_one_by_one_and_from_a_file(exported, int8, tmp_path, capsys):
    (exported / "plans.json").write_text(json.dumps({"8.9": "model.plan"}))
    out = tmp_path / "models"
    where = ["--onnx", str(exported / "model.onnx"), "--out", str(out), "--int8", str(int8)]
    plan = str(exported / "model.plan")
    assert main(["repository", *where, "--plans", str(exported / "plans.json"), "--plan", f"9.0={plan}"]) == 0
    assert dict(parse(out / NETWORK / "config.pbtxt").cc_model_filenames) == {
        "8.9": "model.8.9.plan",
        "9.0": "model.9.0.plan",
    }
    assert (
        "engines for the presets tensorrt, cpu, cpu-int8, cpu-throughput, cpu-int8-throughput, onnxruntime"
        in capsys.readouterr().out
    )
    assert main(["repository", *where, "--replace", "--plan", plan]) == 0
    assert not parse(out / NETWORK / "config.pbtxt").cc_model_filenames


@pytest.mark.parametrize("text", ["no JSON", '["model.plan"]', '{"8.9": 1}'])
def test_a_file_that_names_no_plans_is_refused(tmp_path, text):
    (tmp_path / "plans.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"plans\.json .*wanted"):
        read_plans(tmp_path / "plans.json")
