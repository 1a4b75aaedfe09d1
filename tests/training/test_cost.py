"""Multiply-adds and parameters, against published figures and sums done by hand."""

from __future__ import annotations

import pytest
import torch

from sparseinst.cost import multiply_adds, parameters
from sparseinst.recipes import build_model


def giga(counts):
    return {part: round(count / 1e9, 1) for part, count in counts.items()}


def test_giam_on_resnet50_costs_what_was_published():
    model = build_model("r50_giam")
    counts = multiply_adds(model, 640, 640)
    # Published: 33.4, 7.8 and 32.8; its encoder figure holds 0.015 of resizing, which we leave out.
    assert giga(counts) == {"backbone": 33.4, "encoder": 7.7, "decoder": 32.8}
    assert round(sum(counts.values()) / 1e9, 1) == 73.9
    assert round(sum(parameters(model).values()) / 1e6, 2) == 32.79


def test_a_deformable_convolution_counts_as_a_plain_one_and_its_offsets():
    plain, deformable = (multiply_adds(build_model(name), 640, 640) for name in ("r50_giam", "r50_dcn_giam_aug"))
    # 18 channels of 3x3 in every block of res4 (six, 256 channels) and res5 (three, 512), at the output's size.
    offsets = 18 * 9 * (256 * 6 * 40**2 + 512 * 3 * 20**2)
    assert deformable["backbone"] - plain["backbone"] == offsets
    assert (deformable["encoder"], deformable["decoder"]) == (plain["encoder"], plain["decoder"])


def test_twice_the_width_costs_twice_the_backbone(small_model):
    narrow, wide = multiply_adds(small_model, 64, 96), multiply_adds(small_model, 64, 192)
    assert wide["backbone"] == 2 * narrow["backbone"]


def test_counting_leaves_the_model_as_it_was(small_model):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    image = torch.rand(1, 3, 64, 64)
    expected = small_model(image)["pred_masks"]
    small_model.train()
    multiply_adds(small_model, 64, 64)
    assert small_model.training
    assert all(torch.equal(value, before[name]) for name, value in small_model.state_dict().items())
    assert torch.equal(small_model.eval()(image)["pred_masks"], expected)


@pytest.mark.parametrize("size", [(0, 64), (64, 100)])
def test_a_size_the_network_cannot_take_is_refused(small_model, size):
    with pytest.raises(ValueError, match="multiples of 32"):
        multiply_adds(small_model, *size)
