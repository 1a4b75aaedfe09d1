"""Small networks and the scenes as a data set."""

from __future__ import annotations

import pytest
import torch

from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst_runtime import Contract


@pytest.fixture
def small_config() -> NetworkConfig:
    """A network that builds and runs in milliseconds."""
    decoder = DecoderConfig(classes=3, instances=7, groups=2, channels=16, depth=1, kernel_dim=8)
    return NetworkConfig("mobilenet_v2", EncoderConfig(16), decoder)


@pytest.fixture
def small_model(small_config) -> SparseInst:
    torch.manual_seed(0)
    return SparseInst(small_config).eval()


@pytest.fixture
def small_contract() -> Contract:
    return Contract(classes=("a", "b", "c"), category_ids=(2, 5, 9), input_size=64, max_instances=7)
