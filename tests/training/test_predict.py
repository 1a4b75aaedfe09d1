"""The Predictor: the published test rule against its formulas, and the served rule against evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sparseinst import Predictor, load_model
from sparseinst.checkpoint import save_weights
from sparseinst.evaluate import segment_pictures, torch_engine
from sparseinst.network import SparseInst
from sparseinst.predict import reference_input, reference_instances
from sparseinst_runtime import Contract

CONTRACT = Contract(classes=("a", "b", "c"), category_ids=(1, 2, 3), input_size=(64, 64), max_instances=12)


def matrix(source: int, target: int) -> np.ndarray:
    """Bilinear interpolation along one axis, align_corners False, as a float64 matrix [target, source]."""
    position = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, source - 1)
    result = np.zeros((target, source))
    np.add.at(result, (np.arange(target), lower), 1 - (position - lower))
    np.add.at(result, (np.arange(target), upper), position - lower)
    return result


def bilinear(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    return matrix(maps.shape[-2], height) @ maps @ matrix(maps.shape[-1], width).T


def random_outputs(height: int, width: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Logits of 12 instances for a padded input of [height, width]: smooth masks, scores from nothing to sure."""
    rng = np.random.default_rng(seed)
    coarse = 4 * rng.standard_normal((12, 4, 4))
    coarse[3] = -6  # nowhere above the threshold
    logits = rng.standard_normal((12, 3)) * 2
    logits[5] = -20  # no class at all
    return {
        "pred_logits": torch.from_numpy(logits).float(),
        "pred_scores": torch.from_numpy(rng.standard_normal((12, 1))).float(),
        "pred_masks": torch.from_numpy(bilinear(coarse, height // 4, width // 4)).float(),
    }


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """Random weights on disk whose answers depend on the picture, as a trained network's do."""
    from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig

    torch.manual_seed(3)
    decoder = DecoderConfig(classes=3, instances=12, groups=2, channels=16, depth=1, kernel_dim=8)
    model = SparseInst(NetworkConfig("mobilenet_v2", EncoderConfig(16), decoder)).eval()
    with torch.no_grad():
        for norm in (m for m in model.backbone.modules() if "Frozen" in type(m).__name__):
            norm.running_var.fill_(0.2)
        model.decoder.inst_branch.iam_conv.weight.mul_(30)
        model.decoder.inst_branch.cls_score.weight.mul_(30)
        model.decoder.inst_branch.cls_score.bias.zero_()
    return save_weights(tmp_path_factory.mktemp("lively") / "model.safetensors", model, CONTRACT)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of colour."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def same(one, other) -> bool:
    arrays = all(np.array_equal(getattr(one, k), getattr(other, k)) for k in ("scores", "labels", "boxes"))
    return arrays and one.rles == other.rles and one.image_size == other.image_size


def test_the_reference_input_is_resized_normalised_and_then_padded_with_zeros():
    image = picture(100, 150)
    tensor, scaled = reference_input(image, CONTRACT, short_side=70)
    assert scaled == (70, 105)
    assert tuple(tensor.shape) == (3, 96, 128)
    resized = np.asarray(Image.fromarray(image).resize((105, 70), Image.Resampling.BILINEAR), np.float64)
    expected = ((resized - CONTRACT.mean) / CONTRACT.std).transpose(2, 0, 1)
    np.testing.assert_allclose(tensor[:, :70, :105], expected, atol=1e-5)
    assert tensor[:, 70:].abs().max() == tensor[:, :, 105:].abs().max() == 0


@pytest.mark.parametrize(
    ("scaled", "original"), [((70, 105), (100, 150)), ((96, 128), (48, 64)), ((65, 97), (333, 500))]
)
def test_reference_instances_equal_the_formulas_in_float64(scaled, original):
    outputs = random_outputs(96, 128)
    got = reference_instances(outputs, scaled, original, mask_threshold=0.45)

    c, o, m = (
        1 / (1 + np.exp(-outputs[name].double().numpy())) for name in ("pred_logits", "pred_scores", "pred_masks")
    )
    confidence = np.sqrt(c.max(1) * o[:, 0])
    inside = m > 0.45
    scores = confidence * (m * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    masks = bilinear(bilinear(m, 96, 128)[:, : scaled[0], : scaled[1]], *original) > 0.45
    kept = [i for i in np.argsort(-scores) if confidence[i] > 0.005 and masks[i].any()]
    assert 3 not in kept
    assert 5 not in kept
    assert len(kept) >= 8
    np.testing.assert_allclose(got.scores, scores[kept], rtol=1e-5)
    np.testing.assert_array_equal(got.labels, c.argmax(1)[kept])
    assert got.image_size == original
    for mask, wanted in zip(got.masks(), masks[kept], strict=True):
        assert np.count_nonzero(mask != wanted) <= 1e-4 * mask.size  # float32 against float64 at the threshold
    for (x1, y1, x2, y2), mask in zip(got.boxes, got.masks(), strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert (x1, y1, x2, y2) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_the_published_threshold_is_on_the_confidence_before_the_mask():
    """A vague mask halves the score of a confident instance, which stays; a hesitant one with a clear mask goes."""
    outputs = random_outputs(64, 64)
    outputs["pred_scores"][:] = 20.0
    outputs["pred_logits"][:] = -30.0
    outputs["pred_logits"][0, 1] = 2 * np.log(0.0051)  # p^(1/2) = 0.0051, objectness 1
    outputs["pred_logits"][1, 1] = 2 * np.log(0.0049)
    outputs["pred_masks"][0], outputs["pred_masks"][1] = 0.0, 20.0
    got = reference_instances(outputs, (64, 64), (64, 64), mask_threshold=0.45)
    np.testing.assert_allclose(got.scores, [0.0051 / 2], rtol=1e-2)
    assert len(reference_instances(outputs, (64, 64), (64, 64), 0.45, score_threshold=0.003)) == 0


def test_what_lies_in_the_padding_does_not_change_masks():
    """Behind the first map cell past the picture, which interpolation still sees."""
    outputs = random_outputs(96, 128)
    other = {name: value.clone() for name, value in outputs.items()}
    other["pred_masks"][:, 70 // 4 + 2 :] = 9.0
    other["pred_masks"][:, :, 105 // 4 + 2 :] = -9.0
    one, two = (reference_instances(o, (70, 105), (100, 150), 0.45) for o in (outputs, other))
    assert len(one) == len(two) > 5
    assert sorted(one.rles) == sorted(two.rles)


def test_padding_the_batch_further_does_not_change_what_reference_says(lively):
    predictor = Predictor(lively, resize="reference")
    small = picture(60, 80, seed=1)
    alone = predictor(small)
    assert len(alone) > 2
    for companion in (picture(90, 400, seed=2), picture(500, 90, seed=3)):  # padded further in both directions
        together = predictor.batch([companion, small, companion])
        assert same(together[1], alone)
        assert same(together[0], together[2])
        assert together[0].image_size == companion.shape[:2]


def test_pictures_of_one_size_share_a_pass_and_keep_their_answers(lively):
    predictor = Predictor(lively, resize="reference")
    pictures = [picture(60, 80, seed) for seed in range(CONTRACT.max_batch_size + 3)]
    for together, alone in zip(predictor.batch(pictures), map(predictor, pictures), strict=True):
        assert len(together) == len(alone)
        np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-4)
        assert (together.masks() != alone.masks()).mean() < 1e-3


def test_reference_is_the_network_on_its_input(lively):
    model, contract = load_model(lively)
    image = picture(77, 51)
    tensor, scaled = reference_input(image, contract, short_side=90)
    with torch.inference_mode():
        outputs = {name: value[0] for name, value in model(tensor[None]).items()}
    expected = reference_instances(outputs, scaled, (77, 51), contract.mask_threshold)
    assert same(Predictor(lively, resize="reference", short_side=90)(image), expected)
    assert not same(Predictor(lively, resize="reference")(image), expected)  # the contract's 64


def test_letterbox_is_what_evaluation_and_server_do(lively):
    model, contract = load_model(lively)
    pictures = [picture(60, 80), picture(120, 33)]
    engine = torch_engine(model, contract)
    expected = [found for _, found in segment_pictures(engine, contract, enumerate(pictures), score_threshold=0.1)]
    got = Predictor(lively, score_threshold=0.1).batch(pictures)
    assert all(same(one, other) for one, other in zip(got, expected, strict=True))
    assert sum(map(len, got)) > 2


def test_no_pictures_are_no_instances(lively):
    assert Predictor(lively, resize="reference").batch([]) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resize": "square"}, "resize is 'square'; wanted reference or letterbox"),
        ({"short_side": 600}, "with reference only"),
        ({"resize": "reference", "short_side": 0}, "wanted a positive one"),
        ({"score_threshold": 1.5}, r"wanted a number in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_answered_in_a_sentence(lively, arguments, words):
    with pytest.raises(ValueError, match=words):
        Predictor(lively, **arguments)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
@pytest.mark.parametrize("resize", ["reference", "letterbox"])
def test_what_is_no_picture_is_refused_by_number(lively, resize, wrong):
    with pytest.raises(ValueError, match=r"picture 2 of 2 is .*; wanted uint8 \[H,W,3\]"):
        Predictor(lively, resize=resize).batch([picture(10, 10), wrong])
