"""What is frozen: by whom, for how long, and that it then stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseinst.freezing import always_frozen, freeze_always, learning_count, set_training_mode
from sparseinst.optimise import freeze
from sparseinst.recipes import Phase, Schedule

TWO_PHASES = Schedule(phases=(Phase(1, 64, ("encoder.",)), Phase(2, 96)))


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("given", ["backbone", "backbone."])
def test_a_name_of_a_module_freezes_it_in_all_phases_besides_their_own(small_model, given):
    schedule = freeze_always(TWO_PHASES, small_model, [given])
    assert [phase.frozen for phase in schedule.phases] == [("encoder.", "backbone."), ("backbone.",)]
    assert always_frozen(schedule) == ("backbone.",)
    freeze(small_model, schedule.phase_at(0).frozen)
    assert {name.split(".")[0] for name in learning(small_model)} == {"decoder"}
    freeze(small_model, schedule.phase_at(1).frozen)
    assert {name.split(".")[0] for name in learning(small_model)} == {"encoder", "decoder"}


def test_a_module_is_not_its_neighbour_of_a_longer_name(small_model):
    frozen = freeze_always(TWO_PHASES, small_model, ["backbone.features.1"]).phases[1].frozen
    freeze(small_model, frozen)
    resting = {name for name, _ in small_model.named_parameters()} - learning(small_model)
    assert {name.split(".")[2] for name in resting} == {"1"}


@pytest.mark.parametrize(
    ("given", "frozen"),
    [
        ("backbone.feat", "backbone.feat"),
        ("decoder.inst_branch.iam_conv.weight", "decoder.inst_branch.iam_conv.weight"),
    ],
)
def test_parts_of_names_and_whole_names_of_parameters_freeze_as_well(small_model, given, frozen):
    assert freeze_always(TWO_PHASES, small_model, [given]).phases[1].frozen == (frozen,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("backbones", r"starts with 'backbones'; .* on the top level backbone, encoder, decoder$"),
        ("decoder.masks.0", r"top level backbone, encoder, decoder; below decoder: inst_branch, mask_branch"),
    ],
)
def test_a_prefix_without_a_parameter_is_refused_with_the_choice(small_model, given, words):
    with pytest.raises(ValueError, match=words):
        freeze_always(TWO_PHASES, small_model, [given])


def test_freezing_everything_is_refused(small_model):
    with pytest.raises(ValueError, match="nothing is left to learn in phase 1 of 2 when encoder"):
        freeze_always(TWO_PHASES, small_model, ["backbone", "decoder"])


def test_what_learns_in_one_phase_counts_as_learning(small_model):
    sizes = {part: sum(p.numel() for p in getattr(small_model, part).parameters()) for part in ("encoder", "decoder")}
    schedule = freeze_always(TWO_PHASES, small_model, ["backbone"])
    assert learning_count(small_model, schedule) == sizes["encoder"] + sizes["decoder"]
    assert learning_count(small_model, TWO_PHASES) == sum(p.numel() for p in small_model.parameters())


def test_batch_norms_of_what_is_frozen_keep_their_statistics():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9)), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    freeze(model, ("0.",))
    set_training_mode(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    pixels = torch.randn(2, 3, 5, 5)
    assert torch.equal(model[0](pixels), model[0](pixels))
    model(pixels)
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    freeze(model, ())
    set_training_mode(model)
    assert all(module.training for module in model.modules())
