"""What the model repository's code shares, without a server; tests/server has it inside the real one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparseinst_runtime import Contract, ContractError
from sparseinst_runtime.checksums import write_checksums
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Limits, PictureError
from sparseinst_runtime.masks import segment
from sparseinst_runtime.triton import (
    ModelArguments,
    RequestError,
    each_picture,
    image_size,
    max_instances,
    padded,
    score_threshold,
)

CONTRACT = Contract(classes=("cat", "dog"), category_ids=(1, 2), input_size=(64, 64), max_instances=5, max_batch_size=4)


def arguments(folder, *, n: int = 5, batch: int = 4, parameters: dict[str, str] | None = None) -> ModelArguments:
    """What Triton hands to a model whose configuration has one output, `scores`."""
    (folder / "7").mkdir(exist_ok=True)
    (folder / "7" / "contract.json").write_text(CONTRACT.to_json())
    (folder / "7" / "model.onnx").write_bytes(b"a graph")
    write_checksums(folder / "7")
    config = {
        "name": "network",
        "max_batch_size": batch,
        "input": [],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [n]}],
        "parameters": {key: {"string_value": value} for key, value in (parameters or {}).items()},
    }
    return ModelArguments({"model_repository": str(folder), "model_version": "7", "model_config": json.dumps(config)})


def instances(k: int, height: int = 4, width: int = 6) -> Instances:
    """K instances that can be told apart."""
    return Instances(
        scores=np.linspace(0.9, 0.5, k, dtype=np.float32),
        labels=np.arange(k, dtype=np.int32),
        boxes=np.arange(4 * k, dtype=np.float32).reshape(k, 4),
        rles=tuple(b"%d" % i for i in range(k)),
        image_size=(height, width),
    )


def test_the_contract_comes_from_the_version_folder(tmp_path):
    assert arguments(tmp_path).contract == CONTRACT


def test_a_contract_that_was_changed_after_assembly_is_refused(tmp_path):
    folder = tmp_path / "network" / "7"
    folder.mkdir(parents=True)
    (folder / "contract.json").write_text(CONTRACT.to_json())
    write_checksums(folder)
    (folder / "contract.json").write_text(replace(CONTRACT, score_threshold=0.5).to_json())
    args = {"model_repository": str(folder.parent), "model_version": "7", "model_config": "{}"}
    with pytest.raises(
        ContractError, match=r"contract\.json of version 7 of network is not the file that was assembled"
    ):
        ModelArguments(args)


def test_the_graph_is_the_one_that_the_configuration_names(tmp_path):
    graph = arguments(tmp_path, parameters={"graph": "model.onnx"}).graph()
    assert graph.read_bytes() == b"a graph"
    with pytest.raises(
        ContractError, match=r"version 7 has no model\.int8\.onnx, which this preset serves; give it to"
    ):
        arguments(tmp_path, parameters={"graph": "model.int8.onnx"}).graph()
    changed = arguments(tmp_path, parameters={"graph": "model.onnx"})
    graph.write_bytes(b"another graph")
    with pytest.raises(ContractError, match=r"model\.onnx of version 7 .* is not the file that was assembled"):
        changed.graph()


def test_a_configuration_that_fits_the_contract_passes(tmp_path):
    arguments(tmp_path).check(outputs=[CONTRACT.outputs[0]])
    arguments(tmp_path, batch=1).check(outputs=[CONTRACT.outputs[0]])


def test_another_shape_dtype_name_or_larger_batch_does_not_pass(tmp_path):
    scores = CONTRACT.outputs[0]
    with pytest.raises(ContractError, match=r"output scores is TYPE_FP32 \[6\] .*, TYPE_FP32 \[5\] by contract"):
        arguments(tmp_path, n=6).check(outputs=[scores])
    with pytest.raises(ContractError, match=r"output scores is TYPE_FP32 .*, TYPE_INT32"):
        arguments(tmp_path).check(outputs=[replace(scores, dtype="INT32")])
    with pytest.raises(ContractError, match="input image is missing"):
        arguments(tmp_path).check(inputs=[CONTRACT.input])
    with pytest.raises(ContractError, match=r"max_batch_size is 5 .*, 4 by contract"):
        arguments(tmp_path, batch=5).check()


def test_limits_are_the_configurations_where_it_names_them(tmp_path):
    assert arguments(tmp_path, parameters={"max_pixels": "1000"}).limits() == Limits(max_pixels=1000)


def test_a_parameter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ContractError, match="no parameter hint"):
        arguments(tmp_path).parameter("hint")


@pytest.mark.parametrize("kind", [PictureError, RequestError])
def test_errors_name_the_picture_only_where_there_are_several(kind):
    def work(i: int) -> int:
        if i == 1:
            raise kind("it is green")
        return 10 * i

    assert each_picture(1, work) == [0]
    with pytest.raises(RequestError, match=r"^picture 2 of 3: it is green$"):
        each_picture(3, work)
    with pytest.raises(RequestError, match=r"^it is green$"):
        each_picture(1, lambda i: work(1))


def test_a_fault_of_ours_is_not_dressed_as_a_users():
    with pytest.raises(ZeroDivisionError):
        each_picture(1, lambda i: 1 // i)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (101, 5), (50, 41), (2**31 - 1, 2**31 - 1)])
def test_sizes_outside_the_limits_are_refused(size):
    with pytest.raises(RequestError, match=r"image_size is \["):
        image_size({"image_size": np.array([size], np.int32)}, 0, Limits(max_side=100, max_pixels=2000))


def test_sizes_up_to_the_limits_are_taken():
    limits = Limits(max_side=100, max_pixels=2000)
    sizes = np.array([[1, 1], [20, 100], [50, 40]], np.int32)
    assert [image_size({"image_size": sizes}, i, limits) for i in range(3)] == [(1, 1), (20, 100), (50, 40)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.001, 1.001])
def test_thresholds_outside_0_to_1_are_refused(value):
    with pytest.raises(RequestError, match=r"score_threshold is .*; wanted a number in \[0, 1\]"):
        score_threshold({"score_threshold": np.array([[value]], np.float32)}, 0, 0.3)


def test_each_picture_has_its_own_threshold_and_limit_or_the_default():
    given = {"score_threshold": np.array([[0], [1]], np.float32), "max_instances": np.array([[1], [9]], np.int32)}
    assert [score_threshold(given, i, 0.3) for i in range(2)] == [0, 1]
    assert [max_instances(given, i) for i in range(2)] == [1, 9]
    assert score_threshold({}, 1, 0.3) == 0.3
    assert max_instances({}, 1) is None


@pytest.mark.parametrize("value", [0, -1, -(2**31)])
def test_fewer_than_one_instance_is_refused(value):
    with pytest.raises(RequestError, match=f"max_instances is {value}; wanted at least 1"):
        max_instances({"max_instances": np.array([[value]], np.int32)}, 0)


def test_padding_goes_to_the_requests_own_maximum_and_count_tells_what_is_real():
    batch = [instances(2), instances(0, 7, 8), instances(3)]
    outputs = padded(batch)
    assert {name: array.shape[1:] for name, array in outputs.items()} == {
        "scores": (3,),
        "labels": (3,),
        "boxes": (3, 4),
        "masks": (3,),
        "image_size": (2,),
        "count": (1,),
    }
    assert outputs["count"].tolist() == [[2], [0], [3]]
    assert outputs["image_size"].tolist() == [[4, 6], [7, 8], [4, 6]]
    for i, one in enumerate(batch):
        k = len(one)
        np.testing.assert_array_equal(outputs["scores"][i, :k], one.scores)
        np.testing.assert_array_equal(outputs["labels"][i, :k], one.labels)
        np.testing.assert_array_equal(outputs["boxes"][i, :k], one.boxes)
        assert tuple(outputs["masks"][i, :k]) == one.rles
        assert not outputs["scores"][i, k:].any()
        assert not outputs["boxes"][i, k:].any()
        assert (outputs["labels"][i, k:] == -1).all()
        assert all(mask == b"" for mask in outputs["masks"][i, k:])


def test_one_picture_is_not_padded():
    assert padded([instances(0)])["scores"].shape == (1, 0)
    assert padded([instances(4)])["masks"].shape == (1, 4)


def test_a_reply_of_ten_instances_in_full_hd_fits_into_thirty_kilobytes():
    # Ellipses of 3 to 10 % of the picture, with noise on the logits that roughens their outlines.
    letterbox = Letterbox.fit(1080, 1920, (640, 640))
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:160, :160] + 0.5
    masks = np.zeros((10, 160, 160), np.uint8)
    for mask in masks:
        (y, x), (down, along) = rng.uniform((10, 20), (80, 140)), rng.uniform((10, 20), (27, 48))
        distance = np.hypot((rows - y) / down, (columns - x) / along)
        mask[:] = 255 / (1 + np.exp((20 * (distance - 1) + rng.normal(0, 0.3, distance.shape)).clip(-9, 9)))
    scores, labels = np.linspace(0.9, 0.5, 10).astype(np.float32), np.arange(10, dtype=np.int32)
    reply = padded([segment(scores, labels, masks, letterbox, score_threshold=0.3, mask_threshold=0.45)])
    assert reply["count"].tolist() == [[10]]
    numbers = sum(array.nbytes for name, array in reply.items() if name != "masks")
    run_lengths = sum(4 + len(counts) for counts in reply["masks"].flat)  # as Triton sends bytes: length, then content
    assert 5_000 < numbers + run_lengths < 30_000
