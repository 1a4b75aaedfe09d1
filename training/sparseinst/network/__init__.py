"""The network: backbone, encoder, decoder, scoring head and their configuration."""

from sparseinst.network.config import DecoderConfig, EncoderConfig, NetworkConfig
from sparseinst.network.head import ServingModel, class_confidence, normalise, score
from sparseinst.network.sparseinst import SparseInst

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "NetworkConfig",
    "ServingModel",
    "SparseInst",
    "class_confidence",
    "normalise",
    "score",
]
