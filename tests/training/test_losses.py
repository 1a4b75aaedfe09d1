"""Matcher and losses, held against float64 NumPy versions of the formulas and their properties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from sparseinst.losses import Criterion, LossConfig
from sparseinst.matcher import Matcher

B, N, K, SIDE = 2, 6, 4, 12


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def batch(counts: list[int], seed: int = 0, queries: int = N) -> tuple[dict, list]:
    generator = torch.Generator().manual_seed(seed)
    size = len(counts)
    outputs = {
        "pred_logits": torch.randn(size, queries, K, generator=generator),
        "pred_scores": torch.randn(size, queries, 1, generator=generator),
        "pred_masks": 3 * torch.randn(size, queries, SIDE, SIDE, generator=generator),
    }
    targets = [
        {
            "labels": torch.randint(K, (count,), generator=generator),
            "masks": torch.rand(count, SIDE, SIDE, generator=generator).round(decimals=1),
        }
        for count in counts
    ]
    return outputs, targets


def quality(outputs: dict, targets: list, b: int) -> np.ndarray:
    masks = sigmoid(outputs["pred_masks"][b].double().numpy()).reshape(N, -1)
    truth = targets[b]["masks"].double().numpy().reshape(-1, SIDE * SIDE)
    classes = sigmoid(outputs["pred_logits"][b].double().numpy())[:, targets[b]["labels"].numpy()]
    table = np.zeros((N, len(truth)))
    for n in range(N):
        for t in range(len(truth)):
            overlap = 2 * (masks[n] * truth[t]).sum()
            dice = overlap / ((masks[n] ** 2).sum() + (truth[t] ** 2).sum() + 1e-4)
            table[n, t] = dice**0.8 * classes[n, t] ** 0.2
    return table


def test_matching_is_the_best_of_all_assignments():
    outputs, targets = batch([3, 2])
    for b, (predictions, matched) in enumerate(Matcher()(outputs, targets)):
        table, count = quality(outputs, targets, b), len(targets[b]["labels"])
        best = max(sum(table[p, t] for t, p in enumerate(choice)) for choice in permutations(range(N), count))
        assert sorted(matched.tolist()) == list(range(count))
        assert table[predictions.numpy(), matched.numpy()].sum() == pytest.approx(best, rel=1e-5)


def test_permuting_the_targets_permutes_the_matching():
    outputs, targets = batch([5])
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = [{name: value[order] for name, value in targets[0].items()}]
    (p, t), (q, u) = Matcher()(outputs, targets)[0], Matcher()(outputs, shuffled)[0]
    assert dict(zip(t.tolist(), p.tolist(), strict=True)) == dict(zip(order[u].tolist(), q.tolist(), strict=True))


def test_loss_terms_equal_the_formulas_in_float64():
    outputs, targets = batch([3, 1])
    weights = LossConfig(classification=1.0, dice=1.0, mask=1.0, objectness=1.0)
    terms = Criterion(weights)(outputs, targets)

    pairs = [(p.numpy(), t.numpy()) for p, t in Matcher()(outputs, targets)]
    p = sigmoid(outputs["pred_logits"].double().numpy())
    wanted = np.zeros((B, N, K))
    dice, cross_entropy, objectness = 0.0, [], []
    for b, (predictions, matched) in enumerate(pairs):
        for n, t in zip(predictions, matched, strict=True):
            wanted[b, n, targets[b]["labels"][t]] = 1
            m = sigmoid(outputs["pred_masks"][b, n].double().numpy())
            y = targets[b]["masks"][t].double().numpy()
            dice += 1 - 2 * (m * y).sum() / ((m**2).sum() + (y**2).sum() + 1e-4)
            cross_entropy.append(-(y * np.log(m) + (1 - y) * np.log(1 - m)))
            iou = ((m >= 0.4) & (y > 0.5)).sum() / (((m >= 0.4) | (y > 0.5)).sum() + 1e-6)
            s = sigmoid(outputs["pred_scores"][b, n, 0].double().numpy())
            objectness.append(-(iou * np.log(s) + (1 - iou) * np.log(1 - s)))
    focal = np.where(wanted == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)).sum() / 4
    expected = {
        "classification": focal,
        "dice": dice / 4,
        "mask": np.mean(cross_entropy),
        "objectness": np.mean(objectness),
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_weights_scale_the_terms():
    outputs, targets = batch([2, 2])
    plain = Criterion(LossConfig(1.0, 1.0, 1.0, 1.0))(outputs, targets)
    default = Criterion()(outputs, targets)
    ratios = {name: (default[name] / plain[name]).item() for name in plain}
    assert ratios == pytest.approx({"classification": 2, "dice": 2, "mask": 5, "objectness": 1})


@pytest.mark.parametrize("counts", [[0, 0], [0, 3], [N + 4, 1]], ids=["no instance", "one empty", "more than queries"])
def test_every_count_of_instances_trains(counts: list[int]):
    outputs, targets = batch(counts)
    for value in outputs.values():
        value.requires_grad_()
    terms = Criterion()(outputs, targets)
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in outputs.values())


def test_more_instances_than_queries_leave_later_pictures_untouched():
    outputs, targets = batch([N + 4, 2])
    second = ({name: value[1:] for name, value in outputs.items()}, targets[1:])
    crowded, alone = Matcher()(outputs, targets), Matcher()(*second)
    assert len(crowded[0][0]) == N
    assert torch.equal(crowded[1][0], alone[0][0])
    assert torch.equal(crowded[1][1], alone[0][1])


def test_the_objectness_target_carries_no_gradient_into_the_masks():
    outputs, targets = batch([2])
    outputs["pred_masks"].requires_grad_()
    terms = Criterion(LossConfig(0.0, 0.0, 0.0, 1.0))(outputs, targets)
    assert terms["dice"] == 0
    sum(terms.values()).backward()
    assert not outputs["pred_masks"].grad.any()
