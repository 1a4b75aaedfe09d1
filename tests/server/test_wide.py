"""A model whose input is not square, with the ten best instances and finer masks, through the real Triton."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst import load_model
from sparseinst.evaluate import segment_pictures, torch_engine
from sparseinst_client import Client
from sparseinst_export.graph_options import GraphOptions
from sparseinst_export.onnx import export_onnx
from sparseinst_export.repository import assemble
from sparseinst_runtime.decode import decode
from sparseinst_server import TritonServer

OPTIONS = GraphOptions(input_size=(256, 384), max_instances=10, mask_stride=2)
SAME_MASK_IOU = 0.99


@pytest.fixture(scope="module")
def exported(bundled_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("wide") / "model.onnx"
    return export_onnx(bundled_model / "model.safetensors", out, options=OPTIONS)


def test_a_wide_model_answers_as_pytorch_does(exported, bundled_model, repo_root, scenes, serve_python, tmp_path):
    models = assemble(repo_root / "model_repository", exported.graph, exported.contract, tmp_path / "model_repository")
    model, contract = load_model(bundled_model / "model.safetensors")
    contract = OPTIONS.apply(contract)
    paths = sorted((scenes / "images").glob("*.jpg"))[:4]
    pictures = [(number, decode(path.read_bytes())) for number, path in enumerate(paths)]
    expected = dict(segment_pictures(torch_engine(model, contract), contract, pictures, score_threshold=0.2))
    with TritonServer(models, python=serve_python) as server, Client(server.grpc_url) as client:
        assert client.contract() == contract
        for number, path in enumerate(paths):
            served, local = client.segment(path, score_threshold=0.2), expected[number]
            assert 0 < len(served) <= 10
            np.testing.assert_array_equal(served.labels, local.labels)
            np.testing.assert_allclose(served.scores, local.scores, atol=1e-3)
            for ours, theirs in zip(served.rles, local.rles, strict=True):
                pair = ({"size": list(local.image_size), "counts": counts} for counts in (ours, theirs))
                first, second = pair
                assert coco_mask.iou([first], [second], [0])[0, 0] >= SAME_MASK_IOU
