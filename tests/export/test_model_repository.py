"""Every configuration, in git and assembled for another network, parsed by Triton's schema and held to the contract."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from sparseinst_export.layout import ENSEMBLES, FRONT, MODELS, NETWORK, config_files, find_template
from sparseinst_runtime.contract import Contract, TensorSpec

THRESHOLDS = {TensorSpec("score_threshold", "FP32", (1,)), TensorSpec("max_instances", "INT32", (1,))}
INSTANCES = {
    TensorSpec("scores", "FP32", (-1,)),
    TensorSpec("labels", "INT32", (-1,)),
    TensorSpec("boxes", "FP32", (-1, 4)),
    TensorSpec("masks", "STRING", (-1,)),
    TensorSpec("image_size", "INT32", (2,)),
    TensorSpec("count", "INT32", (1,)),
}
PICTURE = TensorSpec("image", "STRING", (1,))
SIZE = TensorSpec("image_size", "INT32", (2,))


class Repository(NamedTuple):
    """A model repository and the contract that it must hold."""

    folder: Path
    contract: Contract

    def configs(self, model: str) -> list[ModelConfig]:
        """config.pbtxt of a model first, then its configs/*.pbtxt."""
        return [parse(path) for path in config_files(self.folder, model)]

    @property
    def presets(self) -> dict[str, ModelConfig]:
        """The network's configs/*.pbtxt by name; config.pbtxt as `default`."""
        default, *others = config_files(self.folder, NETWORK)
        return {"default": parse(default)} | {path.stem: parse(path) for path in others}


@pytest.fixture(params=["in git", "assembled"])
def repository(request) -> Repository:
    if request.param == "in git":
        return Repository(find_template(), request.getfixturevalue("bundled"))
    return Repository(request.getfixturevalue("assembled"), request.getfixturevalue("other"))


def parse(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def specs(tensors, optional: bool | None = None) -> set[TensorSpec]:
    """A config's tensors in the contract's words; only (non-)optional inputs when asked."""
    chosen = [t for t in tensors if optional is None or t.optional == optional]
    return {TensorSpec(t.name, DataType.Name(t.data_type).removeprefix("TYPE_"), tuple(t.dims)) for t in chosen}


def pixels(contract: Contract) -> TensorSpec:
    return TensorSpec("pixels", contract.input.dtype, contract.input.shape)


def test_every_folder_is_a_model_and_every_config_parses(repository):
    assert {entry.name for entry in repository.folder.iterdir()} == set(MODELS)
    for model in MODELS:
        for config in repository.configs(model):
            assert config.name == model
            assert config.max_batch_size == repository.contract.max_batch_size
            assert len({t.name for t in config.input}) == len(config.input)
            assert len({t.name for t in config.output}) == len(config.output)


def test_network_holds_the_contract_under_every_preset(repository):
    for config in repository.presets.values():
        assert specs(config.input, optional=False) == {repository.contract.input}
        assert not specs(config.input, optional=True)
        assert specs(config.output) == set(repository.contract.outputs)


def test_every_preset_has_its_engine_and_its_kind_of_device(repository):
    presets = repository.presets
    written = (
        {"tensorrt", "cpu-int8", "cpu-throughput", "cpu-int8-throughput"}
        if repository.folder != find_template()
        else set()
    )  # at assembly
    assert presets.keys() == {"default", "cpu", "onnxruntime"} | written
    assert {name: config.backend for name, config in presets.items() if name not in written} == {
        "default": "tensorrt",
        "cpu": "python",
        "onnxruntime": "onnxruntime",
    }
    tensorrt, cpu, onnxruntime = presets["default"], presets["cpu"], presets["onnxruntime"]
    assert tensorrt.default_model_filename == "model.plan"
    assert {group.kind for group in tensorrt.instance_group} == {ModelInstanceGroup.KIND_GPU}
    assert tensorrt.HasField("dynamic_batching")
    assert cpu.default_model_filename == "model.py"
    assert {group.kind for group in cpu.instance_group} == {ModelInstanceGroup.KIND_CPU}
    assert onnxruntime.default_model_filename == "model.onnx"
    assert {group.kind for group in onnxruntime.instance_group} == {ModelInstanceGroup.KIND_AUTO}, "GPU, else CPU"


def test_warm_up_sends_pictures_of_the_contract(repository):
    wanted = repository.contract.input
    for config in repository.configs(NETWORK):
        assert config.model_warmup or config.backend == "python", "model.py warms itself up"
        for warmup in config.model_warmup:
            got = {
                TensorSpec(name, DataType.Name(tensor.data_type).removeprefix("TYPE_"), tuple(tensor.dims))
                for name, tensor in warmup.inputs.items()
            }
            assert got == {wanted}
            assert 1 <= warmup.batch_size <= repository.contract.max_batch_size
    largest = max(warmup.batch_size for warmup in repository.configs(NETWORK)[0].model_warmup)
    assert largest == repository.contract.max_batch_size


def test_preprocess_turns_a_picture_into_the_networks_input(repository):
    (config,) = repository.configs("sparseinst_preprocess")
    assert specs(config.input, optional=False) == specs(config.input) == {PICTURE}
    assert specs(config.output) == {pixels(repository.contract), SIZE}


def test_postprocess_takes_the_networks_outputs(repository):
    (config,) = repository.configs("sparseinst_postprocess")
    assert specs(config.input, optional=False) == {*repository.contract.outputs, SIZE}
    assert specs(config.input, optional=True) == THRESHOLDS
    assert specs(config.output) == INSTANCES


@pytest.mark.parametrize("model", ENSEMBLES)
def test_ensembles_speak_the_wire_contract(repository, model):
    wanted = {PICTURE} if model == FRONT else {pixels(repository.contract), SIZE}
    for config in repository.configs(model):  # under every preset the same
        assert specs(config.input, optional=False) == wanted
        assert specs(config.input, optional=True) == THRESHOLDS
        assert specs(config.output) == INSTANCES


def test_under_cpu_presets_alone_the_front_door_is_one_model(repository):
    default, *cpu = repository.configs(FRONT)
    assert default.platform == "ensemble"
    network = [config for name, config in repository.presets.items() if name.startswith("cpu")]
    assert [config.backend for config in cpu] == ["python"] * len(network)
    assert len(cpu) == len(network)
    for front, engine in zip(cpu, network, strict=True):
        assert front.default_model_filename == "model.py"
        for name in ("graph", "streams", "precision", "longest_wait_ms"):
            assert front.parameters[name] == engine.parameters[name], "the two CPU presets go together"


def test_pictures_have_the_same_limits_whoever_decodes_them(repository):
    (preprocess,) = repository.configs("sparseinst_preprocess")
    for front in repository.configs(FRONT)[1:]:
        for name, value in preprocess.parameters.items():
            assert front.parameters[name] == value


@pytest.mark.parametrize("preset", ["default", "cpu", "onnxruntime"])
@pytest.mark.parametrize("model", ENSEMBLES)
def test_ensemble_steps_fit_together(repository, model, preset):
    """Every input of every step is mapped, from a tensor that exists by then and has its type and shape."""
    ensemble = repository.configs(model)[0]
    known = {tensor.name: tensor for tensor in ensemble.input}
    used = set()
    for step in ensemble.ensemble_scheduling.step:
        assert step.model_version == -1
        network = step.model_name == NETWORK
        composing = repository.presets[preset] if network else repository.configs(step.model_name)[0]
        assert set(step.input_map) == {tensor.name for tensor in composing.input}
        for tensor in composing.input:
            source = known[step.input_map[tensor.name]]
            assert (source.data_type, source.dims) == (tensor.data_type, tensor.dims), tensor.name
            assert getattr(source, "optional", False) == tensor.optional, tensor.name
            used.add(step.input_map[tensor.name])
        assert set(step.output_map) == {tensor.name for tensor in composing.output}
        produced = {step.output_map[tensor.name]: tensor for tensor in composing.output}
        # `sparseinst_pixels` takes and gives an image_size, so a step may answer under the name of an ensemble's input.
        known |= produced
    for tensor in ensemble.output:
        source = produced[tensor.name]
        assert (source.data_type, source.dims) == (tensor.data_type, tensor.dims), tensor.name
    assert {tensor.name for tensor in ensemble.input} <= used


def test_clients_read_the_contract_from_the_ensembles_config(assembled, other):
    for model in ENSEMBLES:
        config = parse(assembled / model / "config.pbtxt")
        assert Contract.from_json(config.parameters["contract"].string_value) == other


def test_network_specific_numbers_in_git_are_all_marked(assembled, bundled, other):
    """Assembling for another contract leaves none of the bundled model's sizes behind."""
    numbers = {*bundled.input_size, bundled.max_instances, *bundled.mask_size}
    assert not numbers & {*other.input_size, other.max_instances, *other.mask_size}
    for path in assembled.rglob("*.pbtxt"):
        config = parse(path)
        left = {dim for tensor in (*config.input, *config.output) for dim in tensor.dims} & numbers
        assert not left, f"{path.parent.name}/{path.name} still holds {left}"
