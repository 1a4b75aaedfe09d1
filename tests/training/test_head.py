"""Scoring: what evaluation uses and what is exported."""

from __future__ import annotations

import numpy as np
import torch

from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, ServingModel, SparseInst, normalise, score
from sparseinst_runtime import Contract

CONTRACT = Contract(classes=("a", "b", "c"), category_ids=(1, 2, 3), input_size=(64, 64), max_instances=5)


def outputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "pred_logits": torch.randn(2, 5, 3, generator=generator),
        "pred_scores": torch.randn(2, 5, 1, generator=generator),
        "pred_masks": 3 * torch.randn(2, 5, 16, 16, generator=generator),
    }


def test_scores_equal_the_formula_in_float64():
    raw = outputs()
    scores, labels, probabilities = score(raw, 0.45)
    c, o, m = (1 / (1 + np.exp(-raw[name].double().numpy())) for name in ("pred_logits", "pred_scores", "pred_masks"))
    inside = m > 0.45
    maskness = (m * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
    np.testing.assert_allclose(scores.numpy(), np.sqrt(c.max(2) * o[..., 0]) * maskness, rtol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), c.argmax(2))
    np.testing.assert_allclose(probabilities.numpy(), m, rtol=1e-5)


def test_an_empty_mask_scores_nothing():
    raw = outputs()
    raw["pred_masks"][0, 2] = -5.0
    scores, _, _ = score(raw, 0.45)
    assert scores[0, 2] == 0
    assert (scores[1] > 0).all()


def test_the_serving_model_keeps_the_contract():
    config = NetworkConfig("mobilenet_v2", EncoderConfig(16), DecoderConfig(3, 5, 1, 16, 1, 8))
    model = ServingModel(SparseInst(config), CONTRACT).eval()
    image = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        got = model(image)
        _, _, probabilities = score(model.model(normalise(image, CONTRACT)), 0.45)
    dtypes = {"FP32": torch.float32, "INT32": torch.int32, "UINT8": torch.uint8}
    for spec, tensor in zip(CONTRACT.outputs, got, strict=True):
        assert tuple(tensor.shape) == (2, *spec.shape)
        assert tensor.dtype == dtypes[spec.dtype]
    assert (got[2].float() / 255 - probabilities).abs().max() <= 0.5 / 255 + 1e-6


def test_the_padding_colour_is_zero_after_normalisation():
    colour = torch.tensor(CONTRACT.pad_colour, dtype=torch.uint8).expand(1, 32, 32, 3)
    assert normalise(colour, CONTRACT).abs().max() < 0.5 / min(CONTRACT.std) + 1e-6
