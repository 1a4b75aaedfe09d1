"""SparseInst: backbone, instance context encoder, IAM decoder (arXiv 2203.12827)."""

from __future__ import annotations

from torch import Tensor, nn

from sparseinst.network.backbone import build_backbone
from sparseinst.network.config import NetworkConfig
from sparseinst.network.decoder import Decoder
from sparseinst.network.encoder import InstanceContextEncoder


class SparseInst(nn.Module):
    """The network as it is trained: normalised pictures in, logits out; see `head` for scores."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.encoder = InstanceContextEncoder(self.backbone.channels, config.encoder)
        self.decoder = Decoder(config.encoder.channels, config.decoder)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Segment a batch.

        Args:
            images: [B,3,H,W] float RGB, normalised by the contract's mean and std; H and W multiples of 32.

        Returns:
            `pred_logits` [B,N,K] class logits, `pred_scores` [B,N,1] objectness logits, `pred_masks` [B,N,H/4,W/4]
            mask logits.
        """
        return self.decoder(self.encoder(self.backbone(images)))
