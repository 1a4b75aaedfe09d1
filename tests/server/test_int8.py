"""The bundled int8 graph through the real Triton, by its preset."""

from __future__ import annotations

import json
import sys

import pytest
from pycocotools.coco import COCO

from sparseinst.evaluate import segment_pictures
from sparseinst_client import Client
from sparseinst_export.engines import openvino_engine
from sparseinst_export.repository import assemble
from sparseinst_runtime.coco import EVALUATION_THRESHOLD, mask_ap
from sparseinst_runtime.decode import decode
from sparseinst_server import TritonServer

AP_FLOOR = 0.50  # of the scenes, as for float32; it reaches 0.526


@pytest.fixture(scope="module")
def quantised(repo_root, bundled_model, serve_python, tmp_path_factory):
    """A client of the preset `cpu-int8`."""
    models = assemble(
        repo_root / "model_repository",
        bundled_model / "model.onnx",
        bundled_model / "contract.json",
        tmp_path_factory.mktemp("int8") / "model_repository",
        int8=bundled_model / "model.int8.onnx",
    )
    with TritonServer(models, python=serve_python, config_name="cpu-int8") as server, Client(server.grpc_url) as client:
        yield client


def test_int8_is_served_and_finds_what_float32_finds(quantised, bundled_model, scenes, capsys):
    truth = json.loads((scenes / "instances.json").read_text())
    contract = quantised.contract()
    engine = openvino_engine(bundled_model / "model.int8.onnx")
    results = []
    for row in truth["images"]:
        path = scenes / "images" / row["file_name"]
        served = quantised.segment(path, score_threshold=EVALUATION_THRESHOLD)
        ((_, local),) = segment_pictures(
            engine, contract, [(row["id"], decode(path.read_bytes()))], score_threshold=EVALUATION_THRESHOLD
        )
        assert served.rles == local.rles, "not the graph that this test runs itself"
        results += served.to_coco(row["id"], contract.category_ids)
    ap = mask_ap(truth, results, COCO(scenes / "instances.json").getImgIds()).ap
    with capsys.disabled():
        sys.stdout.write(f"\nmask AP on the scenes, served in int8: {ap:.4f}\n")
    assert ap >= AP_FLOOR
