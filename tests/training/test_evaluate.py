"""Evaluation: the whole way from a picture through letterbox, uint8 quarter-scale masks and back."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from sparseinst.cli import main
from sparseinst.data import CocoInstances, evaluation_pictures
from sparseinst.evaluate import evaluate, segment_pictures, torch_engine
from sparseinst_runtime import Contract
from sparseinst_runtime.decode import decode, decode_letterboxed
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.limits import PictureError


@pytest.mark.parametrize("size", [320, 640])
def test_perfect_masks_at_quarter_scale_score_nearly_one(scenes, size: int):
    """An engine that knows the truth: what is lost is what uint8 maps of S/4 cannot say, and nothing else."""
    dataset = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=True)
    contract = Contract(dataset.classes, dataset.category_ids, input_size=(size, size), max_instances=10)
    truth = iter([dataset.sample(i) for i in range(len(dataset))])

    def engine(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sample = next(truth)
        box = Letterbox.fit(*sample.image.shape[:2], (size, size))
        masks = np.zeros((1, 10, *contract.mask_size), np.uint8)
        scores, labels = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.int32)
        for i, mask in enumerate(sample.masks):
            padded = box.apply(np.repeat(mask[..., None] * 255, 3, axis=2), (0, 0, 0))[..., 0]
            quarter = F.avg_pool2d(torch.from_numpy(padded)[None].float(), 4)[0]
            masks[0, i], scores[0, i], labels[0, i] = quarter.round().numpy(), 0.9, sample.labels[i]
        return scores, labels, masks

    summary, results = evaluate(engine, contract, str(scenes / "instances.json"), evaluation_pictures(dataset))
    assert len(results) == dataset.instance_count
    assert summary.ap50 == 1.0
    assert summary.ap > (0.93 if size == 640 else 0.85)


def test_evaluate_prints_twelve_lines_and_writes_results(tmp_path, scenes, bundled_model, capsys):
    out = tmp_path / "results.json"
    weights = str(bundled_model / "model.safetensors")
    command = ["evaluate", "--weights", weights, "--annotations", str(scenes / "instances.json")]
    assert main([*command, "--images", str(scenes / "images"), "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Average Precision") == 6
    assert printed.count("Average Recall") == 6
    results = json.loads(out.read_text())
    assert results
    assert {"image_id", "category_id", "score", "segmentation"} <= results[0].keys()


def test_predict_writes_results_for_each_picture(tmp_path, scenes, bundled_model, capsys):
    picture = scenes / "images" / "scene_00.jpg"
    weights = str(bundled_model / "model.safetensors")
    out = tmp_path / "a" / "new folder"
    command = ["predict", str(picture), "--weights", weights, "--out", str(out), "--score-threshold", "0.01"]
    assert main([*command, "--device", "cpu"]) == 0
    results = json.loads((out / "scene_00.json").read_text())
    assert results
    assert all(result["score"] > 0.01 for result in results)
    assert str(picture) in capsys.readouterr().out


def test_predict_names_the_picture_it_cannot_take(tmp_path, scenes, bundled_model, capsys):
    good, bad = scenes / "images" / "scene_00.jpg", tmp_path / "broken.jpg"
    bad.write_bytes(b"not a picture")
    command = ["predict", "--weights", str(bundled_model / "model.safetensors"), "--out", str(tmp_path), "--device=cpu"]
    assert main([*command, str(bad)]) == 1
    assert f"sparseinst predict: {bad}: " in capsys.readouterr().err
    assert main([*command, str(good), str(tmp_path / "scene_00.png")]) == 1
    assert "two pictures are called scene_00" in capsys.readouterr().err


def test_weights_of_other_classes_are_refused(tmp_path, scenes, bundled_model, capsys):
    annotations = json.loads((scenes / "instances.json").read_text())
    annotations["categories"].append({"id": 99, "name": "unicorn"})
    (tmp_path / "more.json").write_text(json.dumps(annotations))
    command = ["evaluate", "--weights", str(bundled_model / "model.safetensors"), "--device", "cpu"]
    assert main([*command, "--annotations", str(tmp_path / "more.json"), "--images", str(scenes / "images")]) == 1
    assert "categories [99] that the weights do not" in capsys.readouterr().err


def test_a_file_is_judged_on_the_pixels_that_are_served(small_model, small_contract, scenes):
    scene = Image.open(scenes / "images" / "scene_03.jpg")
    file = BytesIO()
    scene.resize((scene.width * 2, scene.height * 2)).save(file, "JPEG")  # large enough for decoding at reduced scale
    frame, colour = small_contract.input_size, small_contract.pad_colour
    served, letterbox = decode_letterboxed(file.getvalue(), frame, colour)
    assert (served != letterbox.apply(decode(file.getvalue()), colour)).any()
    seen = []
    network = torch_engine(small_model, small_contract)

    def engine(images: np.ndarray):
        seen.extend(images)
        return network(images)

    ((image_id, instances),) = segment_pictures(engine, small_contract, [(5, file.getvalue())], score_threshold=0)
    np.testing.assert_array_equal(seen[0], served)
    assert image_id == 5
    assert instances.image_size == (scene.height * 2, scene.width * 2)


def test_a_broken_file_is_named_by_its_picture(small_model, small_contract, scenes):
    cut_off = (scenes / "images" / "scene_03.jpg").read_bytes()[:20_000]
    with pytest.raises(PictureError, match="picture 5: the JPEG picture is cut off"):
        list(segment_pictures(torch_engine(small_model, small_contract), small_contract, [(5, cut_off)]))
