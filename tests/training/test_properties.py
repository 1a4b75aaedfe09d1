"""What must hold for any weights and any batch: symmetry of the network, independence of order in the loss."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparseinst.losses import Counts, Criterion, LossConfig
from sparseinst.matcher import ALPHA, BETA, Matcher
from sparseinst.network import DecoderConfig, EncoderConfig
from sparseinst.network.decoder import Decoder
from sparseinst.network.encoder import InstanceContextEncoder, PyramidPooling

CLASSES, SIDE = 4, 10
PLAIN = LossConfig(1.0, 1.0, 1.0, 1.0)
QUERIES = 7
seeds = st.integers(0, 2**32 - 1)
batch_counts = st.lists(st.integers(0, 9), min_size=1, max_size=4)  # of instances; some pictures have more than queries


def random_batch(counts: list[int], seed: int, queries: int = QUERIES) -> tuple[dict, list]:
    """Outputs in float64 with masks from vague to sure, and targets that are soft at their borders."""
    rng = np.random.default_rng(seed)
    size = len(counts)
    outputs = {
        "pred_logits": rng.standard_normal((size, queries, CLASSES)),
        "pred_scores": rng.standard_normal((size, queries, 1)),
        "pred_masks": 3 * rng.standard_normal((size, queries, SIDE, SIDE)),
    }
    targets = [
        {
            "labels": torch.from_numpy(rng.integers(0, CLASSES, count)),
            "masks": torch.from_numpy(rng.integers(0, 5, (count, SIDE, SIDE)) / 4).float(),
        }
        for count in counts
    ]
    return {name: torch.from_numpy(value) for name, value in outputs.items()}, targets


def terms_of(outputs: dict, targets: list, whole: Counts | None = None) -> dict[str, float]:
    return {name: value.item() for name, value in Criterion(PLAIN)(outputs, targets, whole).items()}


def close(expected):
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(batch_counts, seeds)
def test_order_of_pictures_queries_and_targets_does_not_change_the_loss(counts, seed):
    outputs, targets = random_batch(counts, seed)
    rng = np.random.default_rng(seed + 1)
    pictures, queries = rng.permutation(len(counts)), rng.permutation(QUERIES)
    shuffled = {name: value[pictures][:, queries] for name, value in outputs.items()}
    moved = []
    for b in pictures:
        order = torch.from_numpy(rng.permutation(counts[b]))
        moved.append({name: value[order] for name, value in targets[b].items()})
    assert terms_of(shuffled, moved) == close(terms_of(outputs, targets))


@settings(max_examples=40, deadline=None)
@given(batch_counts, seeds)
def test_the_loss_of_a_batch_is_the_sum_of_the_losses_of_its_pictures(counts, seed):
    """Each alone, divided by the counts of all: so no picture sees another one's targets, however many it has."""
    outputs, targets = random_batch(counts, seed)
    whole = Counts.of(targets, QUERIES)
    assert whole == Counts(sum(counts), sum(min(count, QUERIES) for count in counts))
    alone = [
        terms_of({name: value[b : b + 1] for name, value in outputs.items()}, targets[b : b + 1], whole)
        for b in range(len(counts))
    ]
    summed = {name: sum(terms[name] for terms in alone) for name in alone[0]}
    assert terms_of(outputs, targets) == close(summed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), seeds)
def test_the_matching_is_by_dice_and_class_and_never_doubles(count, seed):
    """A swap of two pairs, or another query in place of a matched one, never raises the sum of the qualities."""
    outputs, targets = random_batch([count], seed)
    predictions, matched = Matcher()(outputs, targets)[0]
    assert len(predictions) == len(matched) == min(count, QUERIES)
    assert len(set(predictions.tolist())) == len(set(matched.tolist())) == len(matched)
    assert (ALPHA, BETA) == (0.8, 0.2)
    m = 1 / (1 + np.exp(-outputs["pred_masks"][0].numpy()))
    p = 1 / (1 + np.exp(-outputs["pred_logits"][0].numpy()))
    quality = np.zeros((QUERIES, count))
    for n, t in np.ndindex(QUERIES, count):
        y = targets[0]["masks"][t].double().numpy()
        dice = 2 * (m[n] * y).sum() / ((m[n] ** 2).sum() + (y**2).sum() + 1e-4)
        quality[n, t] = dice**0.8 * p[n, targets[0]["labels"][t]] ** 0.2
    pairs = list(zip(predictions.tolist(), matched.tolist(), strict=True))
    for n, t in pairs:
        free_queries = set(range(QUERIES)) - set(predictions.tolist())
        free_targets = set(range(count)) - set(matched.tolist())
        assert all(quality[other, t] <= quality[n, t] + 1e-6 for other in free_queries)
        assert all(quality[n, other] <= quality[n, t] + 1e-6 for other in free_targets)
        assert all(quality[n, u] + quality[o, t] <= quality[n, t] + quality[o, u] + 1e-6 for o, u in pairs)


@pytest.mark.parametrize("crowded", [0, 1])
def test_150_instances_for_100_queries_match_100_and_leave_the_other_pictures_alone(crowded):
    counts = [3, 0, 40]
    counts.insert(crowded, 150)
    outputs, targets = random_batch(counts, 0, queries=100)
    for value in outputs.values():
        value.requires_grad_()
    terms = Criterion()(outputs, targets)
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(value.grad.isfinite().all() for value in outputs.values())
    # Where the masks' gradient is, a pair was matched: the loss of masks that answer for nothing is zero.
    learning = outputs["pred_masks"].grad.flatten(2).any(-1).sum(1)
    assert learning.tolist() == [min(count, 100) for count in counts]
    # The mask's loss is the mean over all matched pixels: the fifty without a query do not thin it out.
    pairs = Matcher()(outputs, targets)
    masks = torch.cat([outputs["pred_masks"][b, p] for b, (p, _) in enumerate(pairs)]).detach().numpy()
    truth = torch.cat([target["masks"][t] for target, (_, t) in zip(targets, pairs, strict=True)]).numpy()
    assert len(masks) == len(truth) == 143
    assert terms["mask"].item() == close(5 * float((np.log1p(np.exp(masks)) - truth * masks).mean()))
    for b, pair in enumerate(pairs):
        alone = Matcher()({name: value[b : b + 1] for name, value in outputs.items()}, targets[b : b + 1])[0]
        assert all(torch.equal(one, other) for one, other in zip(pair, alone, strict=True))
        labels, wanted = torch.zeros(100, CLASSES), targets[b]["labels"][pair[1]]
        labels[pair[0], wanted] = 1
        # Wanted classes are pushed up, all others down.
        assert torch.equal(outputs["pred_logits"].grad[b] < 0, labels.bool())


def test_nothing_to_find_teaches_background_and_nothing_else():
    outputs, targets = random_batch([0, 0, 0], 0)
    for value in outputs.values():
        value.requires_grad_()
    terms = Criterion(PLAIN)(outputs, targets)
    sum(terms.values()).backward()
    p = 1 / (1 + np.exp(-outputs["pred_logits"].detach().numpy()))
    assert terms["classification"].item() == close(float((-0.75 * p**2 * np.log(1 - p)).sum()))
    assert terms["dice"] == terms["mask"] == terms["objectness"] == 0
    assert (outputs["pred_logits"].grad > 0).all()
    assert not outputs["pred_masks"].grad.any()
    assert not outputs["pred_scores"].grad.any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), seeds)
def test_perfect_answers_cost_nearly_nothing_and_match_themselves(count, seed):
    rng = np.random.default_rng(seed)
    strips = np.zeros((count, SIDE, SIDE), np.float32)
    for mask, (left, right) in zip(strips, pairwise(range(count + 1)), strict=True):
        mask[:, left:right] = 1
    order, labels = torch.from_numpy(rng.permutation(count)), torch.from_numpy(rng.integers(0, CLASSES, count))
    masks = torch.from_numpy(strips)
    outputs = {
        "pred_logits": 20 * (2 * F.one_hot(labels, CLASSES)[order][None] - 1.0),
        "pred_scores": torch.full((1, count, 1), 20.0),
        "pred_masks": 40 * masks[order][None] - 20,
    }
    targets = [{"labels": labels, "masks": masks}]
    predictions, matched = Matcher()(outputs, targets)[0]
    assert torch.equal(order[predictions], matched)
    assert sum(terms_of(outputs, targets).values()) < 1e-4


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), seeds)
def test_pyramid_pooling_sees_a_mirrored_map_mirrored(height, width, seed):
    """Bins that overlap do so alike from both sides, whatever the size."""
    torch.manual_seed(seed)
    module, features = PyramidPooling(8, (1, 2, 3, 6)), torch.randn(1, 8, height, width)
    with torch.inference_mode():
        for axis in (2, 3):
            torch.testing.assert_close(module(features.flip(axis)), module(features).flip(axis), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis", "coordinate"), [(3, 0), (2, 1)], ids=["left and right", "up and down"])
@pytest.mark.parametrize("groups", [1, 2])
def test_mirrored_weights_see_a_mirrored_picture_as_the_picture(groups, axis, coordinate):
    """Kernels mirrored, and x (or y) of the coordinates weighed by the opposite sign: the same instances, mirrored."""
    torch.manual_seed(0)
    config = DecoderConfig(classes=3, instances=5, groups=groups, channels=8, depth=2, kernel_dim=4)
    parts = nn.ModuleList([InstanceContextEncoder((3, 4, 5), EncoderConfig(8)), Decoder(8, config)]).double().eval()
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.normal_(std=(2 / max(parameter[0].numel(), 4)) ** 0.5)
    maps = [torch.randn(1, c, 3 * k, 5 * k, dtype=torch.float64) for c, k in ((3, 4), (4, 2), (5, 1))]
    with torch.inference_mode():
        encoder, decoder = parts
        expected = decoder(encoder(maps))
        for parameter in parts.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(axis))
        for stack in (decoder.inst_branch.inst_convs, decoder.mask_branch.mask_convs):
            stack[0].weight[:, coordinate].neg_()
        mirrored = decoder(encoder([m.flip(axis) for m in maps]))
    assert expected["pred_masks"].std() > 0.1
    expected["pred_masks"] = expected["pred_masks"].flip(axis)
    for name, value in expected.items():
        torch.testing.assert_close(mirrored[name], value, rtol=1e-5, atol=1e-5)
