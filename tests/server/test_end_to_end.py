"""What comes out of the real Triton is what the same code computes in one process, over gRPC and HTTP.

The served engine is OpenVINO on the exported graph, so the twin here is the same graph in OpenVINO, between the same
decoding, letterbox and masks. Against ground truth, the scenes hold the shipped model above a floor.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sparseinst_client import Client, DeadlineExceeded, Overloaded, ServerUnavailable, cli
from sparseinst_client.reply import read_reply
from sparseinst_client.transport import connect
from sparseinst_runtime.coco import mask_ap
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.decode import decode
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.masks import segment

# What the shipped model reaches on the scenes, less a margin; the last test prints the figures.
AP_FLOOR = 0.50
MATCHED_IOU_FLOOR = 0.72

SCORE_TOLERANCE = 1e-3
SAME_MASK_IOU = 0.99


class InProcess:
    """The whole way without a server: decode, letterbox, network, masks."""

    def __init__(self, model_folder):
        import openvino

        self.contract = Contract.load(model_folder / "contract.json")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        self.network = openvino.Core().compile_model(model_folder / "model.onnx", "CPU", settings)

    def letterboxed(self, image):
        letterbox = Letterbox.fit(*image.shape[:2], self.contract.input_size)
        return letterbox, letterbox.apply(image, self.contract.pad_colour)

    def segment(self, image, score_threshold=None, max_instances=None):
        letterbox, pixels = self.letterboxed(image)
        result = self.network({"image": pixels[None]})
        scores, labels, masks = (np.asarray(result[name][0]) for name in ("scores", "labels", "masks"))
        return segment(
            scores,
            labels,
            masks,
            letterbox,
            score_threshold=self.contract.score_threshold if score_threshold is None else score_threshold,
            mask_threshold=self.contract.mask_threshold,
            max_instances=max_instances,
        )


def assert_same(served, local):
    assert served.image_size == local.image_size
    assert len(served) == len(local)
    np.testing.assert_array_equal(served.labels, local.labels)
    np.testing.assert_allclose(served.scores, local.scores, atol=SCORE_TOLERANCE)
    for index in range(len(local)):
        pair = ({"size": list(local.image_size), "counts": each.rles[index]} for each in (served, local))
        first, second = pair
        assert coco_mask.iou([first], [second], [0])[0, 0] >= SAME_MASK_IOU
    np.testing.assert_allclose(served.boxes, local.boxes, atol=1)


@pytest.fixture(scope="module")
def twin(bundled_model):
    return InProcess(bundled_model)


@pytest.fixture(scope="module")
def pictures(scenes):
    paths = sorted((scenes / "images").glob("*.jpg"))
    assert len(paths) == 16
    return paths


@pytest.fixture(scope="module")
def decoded(pictures):
    return [decode(path.read_bytes()) for path in pictures]


def test_the_server_names_the_contract_it_serves(client, twin):
    assert client.contract() == twin.contract
    assert client.classes == twin.contract.classes


def test_every_scene_equals_its_twin(client, twin, pictures, decoded):
    found = 0
    for path, image in zip(pictures, decoded, strict=True):
        served = client.segment(path, score_threshold=0.1)  # low, to have more to compare
        assert_same(served, twin.segment(image, score_threshold=0.1))
        found += len(served)
    assert found > len(pictures)


def test_a_batch_of_mixed_sizes_equals_one_by_one(client, twin, pictures, decoded):
    most = twin.contract.max_batch_size
    images = [*decoded[: most - 3], decoded[0][:200, :90], decoded[1][::2], decoded[2][:1, :1]]
    assert len({image.shape for image in images}) > 3
    batch = client.segment_batch([*pictures[: most - 3], *images[most - 3 :]])
    assert len(batch) == most
    for served, image in zip(batch, images, strict=True):
        assert_same(served, twin.segment(image))


def test_more_pictures_than_a_request_holds_are_refused_in_words(client, twin, decoded):
    most = twin.contract.max_batch_size
    with pytest.raises(ValueError, match=f"{most + 1} pictures in one request; wanted at most {most}"):
        client.segment_batch([decoded[0]] * (most + 1))


def test_path_bytes_and_pixels_give_the_same(client, pictures, decoded):
    from_path = client.segment(pictures[0])
    for same in (str(pictures[0]), pictures[0].read_bytes(), decoded[0]):
        assert_same(client.segment(same), from_path)


def test_options_of_a_request_hold_for_this_request(client, twin, decoded):
    image = decoded[0]
    low = client.segment(image, score_threshold=0.01)
    assert_same(low, twin.segment(image, score_threshold=0.01))
    assert len(client.segment(image, score_threshold=1.0)) == 0
    best = client.segment(image, score_threshold=0.01, max_instances=1)
    assert len(best) == 1
    assert best.rles[0] == low.rles[0]
    assert_same(client.segment(image), twin.segment(image))


def test_sideways_photographs_are_segmented_upright(client, twin, decoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    stored = BytesIO()
    Image.fromarray(np.rot90(decoded[0])).save(stored, "PNG", exif=exif)
    served = client.segment(stored.getvalue())
    assert served.image_size == decoded[0].shape[:2]
    assert_same(served, twin.segment(decoded[0]))


def test_pixels_letterboxed_by_the_caller_give_the_same(url, client, twin, decoded):
    transport = connect(url)
    try:
        for image in decoded[:4]:
            _, pixels = twin.letterboxed(image)
            inputs = {"pixels": pixels[None], "image_size": np.array([image.shape[:2]], np.int32)}
            tensors = transport.infer("sparseinst_pixels", inputs, 30)
            (instances,) = read_reply(tensors, [image.shape[:2]], twin.contract)
            assert_same(instances, client.segment(image))
    finally:
        transport.close()


def test_threads_share_a_grpc_client(server, twin, pictures, decoded):
    with Client(server.grpc_url) as client, ThreadPoolExecutor(4) as pool:
        for served, image in zip(pool.map(client.segment, pictures), decoded, strict=True):
            assert_same(served, twin.segment(image))


def test_a_deadline_is_kept_and_the_next_call_works(client, pictures):
    with pytest.raises(DeadlineExceeded):
        client.segment(pictures[0], timeout=1e-3)
    assert client.segment(pictures[0]).image_size == (480, 640)


def test_who_would_wait_too_long_is_refused_and_the_others_are_answered_rightly(server, pictures):
    burst = 400  # ten seconds of work or more, where two are let wait
    with Client(server.grpc_url, timeout=60, retries=0) as client, ThreadPoolExecutor(burst) as pool:
        expected = client.segment(pictures[0])
        futures = [pool.submit(client.segment, pictures[0]) for _ in range(burst)]
        refused = [error for future in futures if (error := future.exception()) is not None]
        answered = [future.result() for future in futures if future.exception() is None]
        assert refused
        assert answered
        assert {type(error) for error in refused} == {Overloaded}
        for instances in (*answered, client.segment(pictures[0])):
            assert_same(instances, expected)


def test_health_comes_from_a_real_picture(client):
    assert client.ready()
    health = client.health()
    assert health.ready
    assert health.answers
    assert health.server.startswith("triton ")


def test_a_model_that_is_not_served_is_said_in_words(url, pictures):
    with Client(url, model="unheard_of") as client:
        assert not client.ready()
        assert not client.health().answers
        with pytest.raises(ServerUnavailable, match="unheard_of"):
            client.segment(pictures[0])


def test_the_command_line_writes_overlay_and_coco_results(url, scenes, pictures, twin, tmp_path, capsys):
    out, results = tmp_path / "overlay.png", tmp_path / "results.json"
    arguments = ["image", str(pictures[0]), "--url", url, "--score-threshold", "0.01", "--image-id", "1"]
    assert cli.main([*arguments, "--out", str(out), "--json", str(results)]) == 0
    table = capsys.readouterr().out
    assert any(name in table for name in twin.contract.classes)
    assert cv2.imread(str(out)).shape == (480, 640, 3)
    written = json.loads(results.read_text())
    assert len(COCO(str(scenes / "instances.json")).loadRes(written).anns) == len(written) > 0
    assert cli.main(["health", "--url", url]) == 0


def test_the_shipped_model_holds_its_floor_on_the_scenes(client, twin, scenes, pictures, capsys):
    truth = json.loads((scenes / "instances.json").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    results, matched = [], []
    for path in pictures:
        image_id = ids[path.name]
        found = client.segment(path, score_threshold=0.0).to_coco(image_id, twin.contract.category_ids)
        results += found
        confident = [one for one in found if one["score"] > twin.contract.score_threshold]
        for wanted in (one for one in truth["annotations"] if one["image_id"] == image_id):
            same = [one["segmentation"] for one in confident if one["category_id"] == wanted["category_id"]]
            overlaps = coco_mask.iou(same, [wanted["segmentation"]], [0]) if same else [0]
            matched += [float(np.max(overlaps))] if np.max(overlaps) >= 0.5 else []
    summary = mask_ap(truth, results)
    mean_iou = float(np.mean(matched)) if matched else 0.0
    with capsys.disabled():
        sys.stdout.write(
            f"\nscenes: mask AP {summary.ap:.3f}, AP50 {summary.ap50:.3f}; "
            f"{len(matched)} of {len(truth['annotations'])} instances matched, their mean IoU {mean_iou:.3f}\n"
        )
    assert summary.ap >= AP_FLOOR
    assert mean_iou >= MATCHED_IOU_FLOOR
