"""A reply is either exactly what the wire contract allows, or a ReplyError."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sparseinst_client.errors import ReplyError
from sparseinst_client.reply import read_reply, run_lengths

SIZES = [(120, 160), (120, 160)]


def test_a_good_reply_gives_the_instances_it_holds(reply, instances, contract):
    first, second = read_reply(reply, SIZES, contract)
    np.testing.assert_array_equal(first.scores, instances.scores)
    np.testing.assert_array_equal(first.labels, instances.labels)
    np.testing.assert_array_equal(first.boxes, instances.boxes)
    np.testing.assert_array_equal(first.masks(), instances.masks())
    assert first.image_size == (120, 160)
    assert len(second) == 0


def test_a_reply_without_instances_is_good(contract):
    reply = {
        "scores": np.zeros((1, 0), np.float32),
        "labels": np.zeros((1, 0), np.int32),
        "boxes": np.zeros((1, 0, 4), np.float32),
        "masks": np.zeros((1, 0), np.object_),
        "image_size": np.array([[7, 9]], np.int32),
        "count": np.array([[0]], np.int32),
    }
    (instances,) = read_reply(reply, [(7, 9)], contract)
    assert len(instances) == 0
    assert instances.masks().shape == (0, 7, 9)


def test_instances_do_not_keep_the_message_alive(reply, contract):
    first, _ = read_reply(reply, SIZES, contract)
    assert not np.shares_memory(first.boxes, reply["boxes"])


def set_at(name, index, value):
    def change(reply):
        reply[name][index] = value

    return change


def replace(name, make):
    def change(reply):
        reply[name] = make(reply[name])

    return change


def compressed(runs):
    """COCO's compression of any integers, which pycocotools itself refuses to do for negative or huge ones."""
    characters = []
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        while True:
            digit, rest = rest & 31, rest >> 5
            done = rest == (-1 if digit & 16 else 0)
            characters.append(48 + digit + (0 if done else 32))
            if done:
                break
    return bytes(characters)


HOSTILE = {
    "a tensor is missing": lambda reply: reply.pop("boxes"),
    "scores of another dtype": replace("scores", lambda a: a.astype(np.float64)),
    "labels of another dtype": replace("labels", lambda a: a.astype(np.int64)),
    "masks as numbers": replace("masks", lambda a: np.zeros(a.shape, np.uint8)),
    "scores without a batch": replace("scores", lambda a: a[0]),
    "fewer boxes than scores": replace("boxes", lambda a: a[:, :2]),
    "boxes of five numbers": replace("boxes", lambda a: np.zeros((2, 3, 5), np.float32)),
    "another batch": replace("count", lambda a: a[:1]),
    "more counted than held": set_at("count", (0, 0), 4),
    "a negative count": set_at("count", (0, 0), -1),
    "a score that is not a number": set_at("scores", (0, 1), np.nan),
    "a score above one": set_at("scores", (0, 0), 1.5),
    "an infinite score": set_at("scores", (0, 0), np.inf),
    "a negative score": set_at("scores", (0, 2), -0.1),
    "scores not sorted": set_at("scores", (0, 2), 0.8),
    "a label without a class": set_at("labels", (0, 0), 3),
    "a negative label": set_at("labels", (0, 0), -1),
    "a box that is not a number": set_at("boxes", (0, 0, 0), np.nan),
    "a box outside the picture": set_at("boxes", (0, 0, 2), 161),
    "a box with its corners swapped": set_at("boxes", (0, 0, 0), 100),
    "another picture's size": set_at("image_size", (0, 0), 121),
    "sides swapped": set_at("image_size", 0, (160, 120)),
    "a picture without rows": set_at("image_size", (0, 0), 0),
    "a text as mask": set_at("masks", (0, 0), "0`"),
    "an empty mask": set_at("masks", (0, 0), b""),
    "a mask that stops in mid-number": set_at("masks", (0, 0), b"00o"),
    "a mask with other characters": set_at("masks", (0, 0), b"\x00\xff"),
    "runs that are too few": set_at("masks", (0, 0), compressed([0, 100])),
    "runs that are too many": set_at("masks", (0, 0), compressed([0, 120 * 160 + 1])),
    "runs of four gigapixels": set_at("masks", (0, 0), compressed([0, 2**31 - 1, 2**31 - 1])),
    "a negative run that makes the sum right": set_at("masks", (0, 0), compressed([-100, 120 * 160 + 100])),
    "a number of a thousand digits": set_at("masks", (0, 0), b"o" * 1000 + b"0"),
    "more mask than any picture of the size has": set_at("masks", (0, 0), b"0" * (7 * 120 * 160)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_reply_that_breaks_the_contract_is_refused(change, reply, contract):
    change(reply)
    with pytest.raises(ReplyError, match="the server's reply"):
        read_reply(reply, SIZES, contract)


def test_more_instances_than_the_model_has_are_refused(reply, contract):
    grown = {name: np.repeat(array, 4, axis=1) for name, array in reply.items() if name not in {"image_size", "count"}}
    with pytest.raises(ReplyError, match="12 instances"):
        read_reply({**reply, **grown}, SIZES, contract)


def test_a_size_that_nobody_can_hold_costs_no_memory(reply, contract):
    reply["image_size"][0] = (2**31 - 1, 2**31 - 1)
    reply["masks"][0, 0] = compressed([0, 2**31 - 1, 2**31 - 1])
    tracemalloc.start()
    try:
        with pytest.raises(ReplyError):
            read_reply(reply, [None, None], contract)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_mask_longer_than_any_picture_needs_is_refused_unread(reply, contract):
    reply["image_size"][0] = (5000, 10_000)  # as large as pictures may be: so many runs would not be too many for it
    reply["masks"][0, 0] = b"1" * (5 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(ReplyError, match="bytes of mask 0"):
            read_reply(reply, [(5000, 10_000), None], contract)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=30))
def test_run_lengths_are_those_of_pycocotools(rows):
    mask = np.array(rows, np.uint8)
    runs = run_lengths(coco_mask.encode(np.asfortranarray(mask))["counts"])
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(flat.reshape(mask.shape, order="F"), mask)


@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=40))
def test_run_lengths_survive_any_size(lengths):
    np.testing.assert_array_equal(run_lengths(compressed(lengths)), lengths)


@given(st.binary(min_size=1, max_size=60))
def test_run_lengths_of_any_bytes_are_numbers_or_an_error(data):
    try:
        runs = run_lengths(data)
    except ValueError:
        return
    assert runs.ndim == 1
    assert runs.dtype == np.int64
