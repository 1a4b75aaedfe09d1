"""Deformable convolution survives the export: ONNX's DeformConv in ONNX Runtime gives what PyTorch gives."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from sparseinst.network.deformable import DeformableConv2d
from sparseinst_export.onnx import OPSET


@pytest.mark.parametrize("stride", [1, 2])
def test_deformable_convolution_is_the_same_in_onnx_runtime(stride: int):
    torch.manual_seed(stride)
    layer = DeformableConv2d(6, 8, stride).eval()
    with torch.no_grad():
        layer.offset.weight.normal_(std=0.5)  # shifts of pixels, also beyond the border
        layer.offset.bias.normal_()
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        layer,
        (torch.randn(2, 6, 11, 14),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["features"],
        dynamic_shapes={"features": {0: batch}},
        verbose=False,
    )
    graph = program.model_proto
    assert "DeformConv" in {node.op_type for node in graph.graph.node}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    features = torch.randn(3, 6, 11, 14)
    with torch.inference_mode():
        expected = layer(features).numpy()
    (got,) = session.run(None, {"features": features.numpy()})
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
