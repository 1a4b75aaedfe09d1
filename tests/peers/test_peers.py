"""The side-by-side comparison: contenders answer alike, what is measured adds up, who is not here is named."""

from __future__ import annotations

import os
import time
from itertools import pairwise

import numpy as np
import pytest
from peers.arena import compare, mean_iou, order, surest
from peers.contenders import Answer, Contender, Model, Setting, engine
from peers.models import random_network
from peers.plain import encoded, plain
from peers.summary import bars, summarise, table
from peers.worker import Turn, Worker, processor_time
from simple_contenders import absent, broken, slow

from sparseinst.network.head import normalise
from sparseinst.recipes import get_recipe
from sparseinst_export.verify import smooth_pictures
from sparseinst_runtime import Contract


@pytest.fixture(scope="module")
def pictures(scenes):
    """Two of the largest scenes, shrunk by the letterbox, and a square one."""
    return tuple((scenes / "images" / f"scene_{number:02}.jpg").read_bytes() for number in (1, 3, 4))


@pytest.fixture(scope="module")
def setting(bundled_model, pictures, tmp_path_factory):
    model = Model(
        name="bundled",
        weights=bundled_model / "model.safetensors",
        graph=bundled_model / "model.onnx",
        int8=None,
        repository=tmp_path_factory.mktemp("unused"),
        trained=True,
    )
    return Setting(model, instances=3, threads=1, pictures=pictures[:1])


def turn(seconds, wall, processor):
    return Turn(seconds, wall, processor, instances=(2,) * len(seconds), run_bytes=(30,) * len(seconds))


def test_plain_pytorch_and_our_engine_find_the_same_objects(setting, pictures):
    ours, theirs = engine(setting), plain(setting)
    pairs = [(theirs(picture), ours(picture)) for picture in pictures]
    assert all(expected.size == found.size for expected, found in pairs)
    assert mean_iou((surest(expected, 0.3), found) for expected, found in pairs) > 0.9  # the resizing filters differ
    assert [len(found.masks) for _, found in pairs] == [3, 3, 3]
    assert np.allclose([a.scores[0] for a, _ in pairs], [b.scores[0] for _, b in pairs], atol=0.1)


def test_an_answer_agrees_with_itself_and_not_with_nothing():
    masks = np.zeros((2, 4, 6), bool)
    masks[0, :2], masks[1, 2:] = True, True
    answer, empty = encoded(masks, np.ones(2, np.float32)), encoded(masks[:0], np.ones(0, np.float32))
    assert mean_iou([(answer, answer)]) == 1.0
    assert mean_iou([(answer, empty)]) == 0.0
    half = encoded(masks[:1], np.ones(1, np.float32))
    assert mean_iou([(answer, half)]) == 0.5  # one of the two is found


def test_only_sure_masks_are_held_against_others():
    answer = Answer((4, 6), (b"1", b"2", b"3"), np.array([0.9, 0.4, 0.2], np.float32))
    assert surest(answer, 0.3).masks == (b"1", b"2")
    assert surest(answer, 0.95).masks == (b"1",)


def test_everybody_begins_as_often_and_follows_others_than_the_same_one():
    rounds = [order("abc", index) for index in range(6)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert sorted(one[0] for one in rounds) == sorted("abc" * 2)
    assert {(x, y) for one in rounds for x, y in pairwise(one)} >= {("a", "b"), ("b", "a")}


def test_masks_without_a_pixel_are_no_instances():
    masks = np.zeros((3, 4, 6), bool)
    masks[1] = True
    answer = encoded(masks, np.array([0.9, 0.8, 0.7], np.float32))
    assert len(answer.masks) == 1
    assert answer.scores.tolist() == [pytest.approx(0.8)]


def test_random_weights_fade_nowhere():
    import torch

    network = get_recipe("compact").network
    classes = tuple(f"class {index}" for index in range(network.decoder.classes))
    contract = Contract(classes=classes, category_ids=tuple(range(len(classes))), input_size=(96, 128))
    model = random_network(network, contract)
    with torch.inference_mode():
        features = model.backbone(normalise(torch.from_numpy(smooth_pictures(2, contract.input_size)), contract))
    assert all(0.1 < feature.std() < 10 for feature in features)


def test_contenders_take_turns_on_the_same_pictures_in_processes_of_their_own(setting):
    ticks = []
    contenders = [Contender("one", slow), Contender("away", absent), Contender("two at a time", slow, concurrency=2)]
    result = compare(
        contenders, setting, (b"a", b"ab", b"abc"), rounds=2, warm_up=1, turn=2, tick=lambda: ticks.append(1)
    )
    assert result.skipped == {"away": "no such package"}
    assert len(ticks) == 2 * 3
    assert {name: len(turns) for name, turns in result.turns.items()} == {"one": 2, "two at a time": 2}
    # The numbers of instances tell which pictures these were: the third and the first, then the second and the third.
    assert [turn.instances for turn in result.turns["one"]] == [(3, 1), (2, 3)]
    assert [turn.instances for turn in result.turns["two at a time"]] == [(3, 1, 2, 3), (2, 3, 1, 2)]
    for done in result.turns["one"]:
        assert done.processor >= 0.1  # it worked so long, whatever else the machine did
        assert done.wall >= sum(done.seconds) * 0.99


def test_what_a_contender_says_when_it_fails_is_told(setting):
    worker = Worker(Contender("choosy", broken), setting, (b"a",))
    try:
        with pytest.raises(RuntimeError, match="choosy: ValueError: this picture is not to my taste"):
            worker.turn([0])
    finally:
        worker.close()


def test_processor_time_of_a_tree_of_processes_grows_by_what_is_done_in_it():
    before = processor_time(os.getpid())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert processor_time(os.getpid()) - before >= 0.08  # the system counts in hundredths


def test_ratios_are_taken_round_by_round():
    turns = {
        "fast": [turn((0.1, 0.1), 0.2, 0.2), turn((0.4, 0.4), 0.8, 0.2), turn((0.1, 0.1), 0.2, 0.2)],
        "reference": [turn((0.2, 0.2), 0.4, 0.8), turn((0.8, 0.8), 1.6, 0.8), turn((0.3, 0.3), 0.6, 0.8)],
    }
    fast, reference = summarise(turns, "reference", {"fast"}, {"fast": 0.5})
    # The second round was slow for both: their ratio is not.
    assert (fast.ratio, fast.ratio_spread) == (pytest.approx(2), (pytest.approx(2), pytest.approx(3)))
    assert (reference.ratio, reference.processor_ratio) == (1, 1)
    assert (fast.rate, fast.rate_spread) == (pytest.approx(10), (pytest.approx(2.5), pytest.approx(10)))
    assert (fast.processor, fast.processor_ratio) == (pytest.approx(100), pytest.approx(4))
    assert (fast.latency, fast.instances, fast.run_bytes) == (pytest.approx(100), 2, 30)
    lines = table([fast, reference], "reference").splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].endswith("| 0.500 |")
    assert bars({"panel": [fast, reference]}).startswith(b"\x89PNG")
