"""Options of `sparseinst train` that change what is learnt: frozen parts, drawn sides, one class for all."""

from __future__ import annotations

import json

import pytest
import torch

from sparseinst import load_model
from sparseinst.checkpoint import load_state, save_weights
from sparseinst.cli import main
from sparseinst.data import AugmentConfig, CocoInstances, TrainingSet, training_batches
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst.recipes import RECIPES, Phase, Recipe, Schedule
from sparseinst_runtime import Contract
from sparseinst_runtime.coco import ground_truth, mask_ap

NETWORK = NetworkConfig(
    "mobilenet_v2", EncoderConfig(16), DecoderConfig(instances=7, groups=2, channels=16, depth=1, kernel_dim=8)
)


@pytest.fixture
def tiny(monkeypatch) -> str:
    """The name of a recipe that trains on the scenes in a second: one epoch, the encoder frozen, 32 pixels."""
    schedule = Schedule(phases=(Phase(1, 32, ("encoder.",)),), batch_size=8, lr=1e-3, warmup=1)
    recipe = Recipe("tiny", NETWORK, input_size=64, schedule=schedule, augment=AugmentConfig())
    monkeypatch.setitem(RECIPES, "tiny", lambda: recipe)
    return "tiny"


@pytest.fixture
def command(scenes, tmp_path) -> list[str]:
    annotations, images = str(scenes / "instances.json"), str(scenes / "images")
    return [
        *("train", "--annotations", annotations, "--images", images, "--val-annotations", annotations),
        *("--val-images", images, "--out", str(tmp_path / "run"), "--workers", "0", "--device", "cpu"),
    ]


def test_a_frozen_backbone_is_the_one_the_run_began_with_and_resumes_only_so(tiny, command, tmp_path, capsys):
    options = ["--recipe", tiny, "--freeze", "backbone", "--multi-scale", "32,64"]
    assert main([*command, *options]) == 0
    torch.manual_seed(0)
    classes = 7
    fresh = SparseInst(NetworkConfig("mobilenet_v2", NETWORK.encoder, _with_classes(classes)))
    after = load_state(tmp_path / "run" / "state.pt")["model"]
    changed = {name.split(".")[0] for name, value in fresh.state_dict().items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"}
    learning = sum(p.numel() for p in fresh.decoder.parameters())
    every = sum(p.numel() for p in fresh.parameters())
    assert f"tiny: {learning / 1e6:.2f} of {every / 1e6:.2f} M parameters learn, 16 pictures" in capsys.readouterr().out

    for change, words in (
        (["--freeze", "decoder.mask_branch"], "frozen backbone., encoder., now decoder.mask_branch., encoder."),
        (["--multi-scale", "32"], "sides [32, 64], now [32]"),
        (["--class-agnostic"], "is of recipe 'tiny' or of other classes"),
    ):
        assert main([*command, *options, *change, "--resume"]) == 1
        assert words in capsys.readouterr().err
    assert main([*command, *options, "--resume"]) == 0  # nothing is left to do


def _with_classes(classes: int) -> DecoderConfig:
    return DecoderConfig(classes, instances=7, groups=2, channels=16, depth=1, kernel_dim=8)


def test_without_classes_training_and_evaluation_know_one(tiny, command, scenes, tmp_path, capsys):
    assert main([*command, "--recipe", tiny, "--class-agnostic"]) == 0
    weights = tmp_path / "run" / "best.safetensors"
    model, contract = load_model(weights)
    assert (contract.classes, contract.category_ids) == (("object",), (1,))
    assert contract.class_agnostic
    assert model.config.decoder.classes == 1

    out, annotations = tmp_path / "results.json", scenes / "instances.json"
    evaluation = ["evaluate", "--weights", str(weights), "--images", str(scenes / "images"), "--out", str(out)]
    assert main([*evaluation, "--annotations", str(annotations), "--device", "cpu"]) == 0
    assert "Average Precision" in capsys.readouterr().out
    assert {result["category_id"] for result in json.loads(out.read_text())} == {1}


def test_fine_tuning_names_the_class_layer_and_refuses_other_networks(tiny, command, tmp_path, capsys):
    one_class = SparseInst(NetworkConfig("mobilenet_v2", NETWORK.encoder, _with_classes(1)))
    contract = Contract(classes=("object",), category_ids=(1,), input_size=(64, 64), max_instances=7, name="mine")
    weights = save_weights(tmp_path / "mine.safetensors", one_class, contract)
    layer = "decoder.inst_branch.cls_score"
    for name, options, afresh in (
        ("apart", [], f"{layer}.bias, {layer}.weight"),
        ("one", ["--class-agnostic"], "nothing"),
    ):
        run = [*command, "--recipe", tiny, "--weights", str(weights), "--out", str(tmp_path / name), *options]
        assert main(run) == 0
        assert f"fine-tuning from {weights}; starting afresh: {afresh}\n" in capsys.readouterr().out
    assert main([*command, "--recipe", "compact", "--weights", str(weights)]) == 1
    error = capsys.readouterr().err
    assert "mine.safetensors is of another network (" in error
    assert "encoder.channels 16, wanted 96" in error
    assert "with the recipe these weights were made with (they are called 'mine')" in error


def test_all_categories_of_a_dataset_become_one_label(scenes):
    apart = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    merged = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False, class_agnostic=True)
    assert len(apart.classes) == 7
    assert (merged.classes, merged.category_ids) == (("object",), (1,))
    assert merged.instance_count == apart.instance_count
    for index in range(len(merged)):
        assert not merged.sample(index).labels.any()
        assert (merged.sample(index).masks == apart.sample(index).masks).all()


def test_a_result_of_any_class_counts_when_all_are_one(scenes):
    raw = json.loads((scenes / "instances.json").read_text())
    perfect = [{**annotation, "category_id": 1, "score": 0.9} for annotation in raw["annotations"]]
    one = Contract(classes=("object",), category_ids=(1,))
    truth = ground_truth(raw, one)
    assert {category["id"] for category in truth["categories"]} == {1}
    assert ground_truth(truth, one) == truth
    assert mask_ap(truth, perfect).ap == 1.0
    assert mask_ap(raw, perfect).ap < 0.5
    assert len(raw["categories"]) == 7  # what was handed in is left alone

    animals = Contract(tuple(c["name"] for c in raw["categories"]), tuple(c["id"] for c in raw["categories"]))
    assert not animals.class_agnostic
    assert ground_truth(raw, animals) == raw
    with pytest.raises(ValueError, match="that the weights do not; same dataset"):
        ground_truth(raw, Contract(classes=("thing",), category_ids=(1,)))


def drawn_sides(scenes, sides: tuple[int, ...], **options) -> list[int]:
    """The side of each batch of an epoch of eight batches of two."""
    instances = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    dataset = TrainingSet(instances, 96, AugmentConfig(mosaic=0.5, sides=sides), (124, 116, 104))
    found = []
    for images, targets in training_batches(
        dataset, options.pop("batch_size", 2), **{"epoch": 0, "seed": 3, **options}
    ):
        count, height, width, _ = images.shape
        assert height == width
        assert len(targets) == count
        assert all(target["masks"].shape[1:] == (height // 4, width // 4) for target in targets)
        found.append(height)
    return found


def test_the_side_of_a_batch_depends_on_seed_epoch_and_number_alone(scenes):
    sides = (32, 64, 96, 128)
    first = drawn_sides(scenes, sides)
    assert len(first) == 8
    assert len(set(first)) > 2
    assert set(first) <= set(sides)
    assert drawn_sides(scenes, sides, start_batch=3, workers=2) == first[3:]  # resumed
    for rank in range(2):
        assert drawn_sides(scenes, sides, batch_size=1, rank=rank, world_size=2) == first  # on all processes alike
    assert drawn_sides(scenes, sides, epoch=1) != first
    assert drawn_sides(scenes, sides, seed=4) != first
    assert drawn_sides(scenes, ()) == [96] * 8


def test_drawing_the_side_leaves_the_other_dice_alone(scenes):
    """With a single side to draw, the batches are those of a data set of that side."""
    instances = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    pair = [
        TrainingSet(instances, size, AugmentConfig(mosaic=0.5, sides=sides), (124, 116, 104))
        for size, sides in ((64, ()), (96, (64,)))
    ]
    for (images, targets), (others, wanted) in zip(
        *(training_batches(dataset, 4, seed=1, epoch=2) for dataset in pair), strict=True
    ):
        assert torch.equal(images, others)
        assert all(torch.equal(a["masks"], b["masks"]) for a, b in zip(targets, wanted, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "tiny", "--freeze", "neck"], "name starts with 'neck'; wanted the beginning of one, on the top"),
        (["--recipe", "tiny", "--freeze", "backbone,decoder"], "nothing is left to learn in phase 1 of 1"),
        (["--recipe", "tiny", "--multi-scale", "64,100"], "are (64, 100); wanted positive multiples of 32"),
        (["--recipe", "r50_giam", "--multi-scale", "64"], "r50_giam draws a short side for each picture by itself"),
    ],
)
def test_options_that_cannot_be_are_answered_in_words(tiny, command, capsys, options, words):
    assert main([*command, *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--multi-scale", "64,x"), ("--multi-scale", ","), ("--freeze", "")])
def test_lists_that_are_none_are_refused(tiny, command, capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--recipe", tiny, option, value])
    assert f"argument {option}: invalid list of" in capsys.readouterr().err
