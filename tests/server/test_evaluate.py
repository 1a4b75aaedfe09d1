"""AP is the same wherever the network runs: in PyTorch, as the exported graph, and through the server."""

from __future__ import annotations

import json
import sys

import pytest

from sparseinst.cli import main as sparseinst
from sparseinst_client.cli import main as sparseinst_client
from sparseinst_export.cli import main as sparseinst_export
from sparseinst_runtime.coco import mask_ap


def test_ap_through_the_server_is_that_of_the_weights(server, bundled_model, scenes, tmp_path, capsys):
    truth = scenes / "instances.json"
    weights, graph = str(bundled_model / "model.safetensors"), str(bundled_model / "model.onnx")
    commands = {
        "PyTorch": (sparseinst, ["--weights", weights, "--device", "cpu"]),
        "ONNX Runtime": (sparseinst_export, ["--onnx", graph]),
        "OpenVINO": (sparseinst_export, ["--onnx", graph, "--engine", "openvino"]),
        "gRPC": (sparseinst_client, ["--url", server.grpc_url]),
        "HTTP": (sparseinst_client, ["--url", server.http_url]),
    }
    ap = {}
    for name, (command, arguments) in commands.items():
        out = tmp_path / name / "results.json"
        where = ["--annotations", str(truth), "--images", str(scenes / "images"), "--out", str(out)]
        assert command(["evaluate", *arguments, *where]) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        summary = mask_ap(truth, json.loads(out.read_text()))
        assert summary.text in printed
        ap[name] = summary.ap
    with capsys.disabled():
        sys.stdout.write("\nmask AP on the scenes: " + ", ".join(f"{name} {ap[name]:.4f}" for name in ap) + "\n")
    assert ap["PyTorch"] > 0
    assert ap == pytest.approx(dict.fromkeys(ap, ap["PyTorch"]), abs=0.002)
