from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseinst_runtime import Contract, ContractError

ANIMALS = Contract(
    classes=("bear", "deer"), category_ids=(1, 2), input_size=(320, 320), max_instances=50, name="animals"
)

numbers = st.floats(0, 255)
contracts = st.builds(
    lambda classes, **rest: Contract(tuple(classes), tuple(range(7, 7 + len(classes))), **rest),
    classes=st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True),
    input_size=st.tuples(*[st.integers(1, 64).map(lambda n: 32 * n)] * 2),
    max_instances=st.integers(1, 500),
    max_batch_size=st.integers(1, 64),
    mean=st.tuples(numbers, numbers, numbers),
    std=st.tuples(*[st.floats(0, 255, exclude_min=True)] * 3),
    score_threshold=st.floats(0, 1),
    mask_threshold=st.floats(0, 1, exclude_min=True, exclude_max=True),
    mask_stride=st.sampled_from([1, 2, 4, 8]),
    name=st.text(min_size=1),
)


@given(contracts)
def test_json_there_and_back_is_equal(contract):
    assert Contract.from_json(contract.to_json()) == contract


def test_fields_with_a_default_may_be_missing():
    contract = Contract.from_json('{"classes": ["cat"], "category_ids": [17]}')
    assert contract == Contract(("cat",), (17,))


def test_an_input_with_equal_sides_is_one_number_in_json():
    assert json.loads(ANIMALS.to_json())["input_size"] == 320
    wide = dataclasses.replace(ANIMALS, input_size=(640, 864))
    assert json.loads(wide.to_json())["input_size"] == [640, 864]


def test_height_comes_first_and_masks_follow_the_stride():
    wide = dataclasses.replace(ANIMALS, input_size=(640, 864), mask_stride=8)
    assert wide.input.shape == (640, 864, 3)
    assert wide.outputs[2].shape == (50, 80, 108)


def test_tensors_follow_from_the_sizes():
    assert ANIMALS.mask_size == (80, 80)
    assert ANIMALS.input.shape == (320, 320, 3)
    assert [(t.name, t.dtype, t.shape) for t in ANIMALS.outputs] == [
        ("scores", "FP32", (50,)),
        ("labels", "INT32", (50,)),
        ("masks", "UINT8", (50, 80, 80)),
    ]


def test_padding_has_the_mean_colour():
    assert ANIMALS.pad_colour == (124, 116, 104)


WRONG = [
    ("version", 2),
    ("name", ""),
    ("name", 5),
    ("classes", []),
    ("classes", ["bear", ""]),
    ("classes", ["bear", 3]),
    ("classes", ["bear", "bear"]),
    ("classes", "ab"),
    ("classes", None),
    ("category_ids", [1]),
    ("category_ids", [1, 1]),
    ("category_ids", [1, 2, 3]),
    ("category_ids", [1, "2"]),
    ("category_ids", [1, True]),
    ("category_ids", 12),
    ("input_size", 0),
    ("input_size", -32),
    ("input_size", 321),
    ("input_size", 320.0),
    ("input_size", "320"),
    ("input_size", [320]),
    ("input_size", [320, 321]),
    ("input_size", [320, 320, 3]),
    ("input_size", [0, 320]),
    ("input_size", True),
    ("max_instances", 0),
    ("max_instances", 1.5),
    ("max_instances", True),
    ("max_batch_size", 0),
    ("mean", [1, 2]),
    ("mean", [1, 2, 256]),
    ("mean", [1, 2, "3"]),
    ("mean", 100),
    ("std", [1, 0, 2]),
    ("std", [1, 2, 3, 4]),
    ("score_threshold", -0.1),
    ("score_threshold", 1.01),
    ("score_threshold", "0.3"),
    ("score_threshold", None),
    ("score_threshold", float("nan")),
    ("mask_threshold", 0),
    ("mask_threshold", 1),
    ("mask_threshold", float("nan")),
    ("mask_stride", 3),
    ("mask_stride", 16),
    ("mask_stride", "4"),
    ("mask_stride", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value) or "empty")
def test_every_wrong_field_is_refused_by_name(field, value):
    raw = dataclasses.asdict(ANIMALS) | {field: value}
    with pytest.raises(ContractError, match=field):
        Contract.from_json(json.dumps(raw))


@pytest.mark.parametrize("field", ["classes", "category_ids"])
def test_missing_field_is_named(field):
    raw = dataclasses.asdict(ANIMALS)
    del raw[field]
    with pytest.raises(ContractError, match=rf"missing fields \['{field}'\]"):
        Contract.from_json(json.dumps(raw))


def test_unknown_field_is_named():
    raw = dataclasses.asdict(ANIMALS) | {"treshold": 0.3}
    with pytest.raises(ContractError, match=r"unknown fields \['treshold'\]"):
        Contract.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(ContractError, match=r"my\.json"):
        Contract.from_json(text, source="my.json")


def test_load_reads_what_was_written_and_says_where_none_is(tmp_path):
    path = tmp_path / "contract.json"
    path.write_text(ANIMALS.to_json(), encoding="utf-8")
    assert Contract.load(path) == ANIMALS
    with pytest.raises(ContractError, match="no contract at"):
        Contract.load(tmp_path / "none.json")
