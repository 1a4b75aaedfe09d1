"""Networks with the switches of the paper's ablations are exported like any other."""

from __future__ import annotations

import pytest
import torch

from sparseinst import SparseInst
from sparseinst.checkpoint import save_weights
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig
from sparseinst_export.onnx import export_onnx
from sparseinst_runtime import Contract

CONTRACT = Contract(("ant", "bee"), category_ids=(1, 2), input_size=(64, 64), max_instances=6)
SWITCHES = {
    "cross-attention": (
        EncoderConfig(16, pool_sizes=(), fusion=False),
        {"gathering": "cross_attention", "coordinates": False, "rescoring": False},
    ),
    "softmax": (EncoderConfig(16), {"iam_activation": "softmax", "iam_depth": 2, "iam_kernel": 1}),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switched_network_is_exported_for_any_batch(name: str, tmp_path):
    """The export itself refuses a fixed batch size, and what differs from PyTorch."""
    encoder, switches = SWITCHES[name]
    torch.manual_seed(0)
    decoder = DecoderConfig(2, CONTRACT.max_instances, groups=1, channels=16, depth=1, kernel_dim=8, **switches)
    model = SparseInst(NetworkConfig("mobilenet_v2", encoder, decoder))
    torch.nn.init.normal_(model.decoder.inst_branch.cls_score.bias)  # fresh, both classes are as likely
    weights = save_weights(tmp_path / "model.safetensors", model, CONTRACT)
    export = export_onnx(weights, tmp_path / "model.onnx")
    assert [difference.batch for difference in export.differences] == [1, 3]
