"""The variants that the paper and its code published: architecture, and what they reached. One row each.

`recipes.py` makes a training of each row, `published.py` reads the published weights of each, and `docs/variants.md`
shows the table. Facts of arXiv 2203.12827 and of the published code and model table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparseinst.network import DecoderConfig, NetworkConfig

REPRODUCED = "no (needs 8 GPUs)"


@dataclass(frozen=True)
class Variant:
    """A published model.

    Attributes:
        backbone: a key of `network.backbone.BACKBONES`.
        input_size: short side of the pictures at test time, in pixels; the long side is at most 853.
        groups: activation maps for one instance.
        iam_activation: see `DecoderConfig`.
        crop: trained with random crops (`aug` in the name).
        ap_val: published mask AP on COCO val2017, in percent; None where none was published.
        ap_test: published mask AP on COCO test-dev, in percent.
        fps: published pictures a second, RTX 2080 Ti, batch 1, PyTorch fp32: network and masks at the original size,
            without loading, resizing and normalising.
    """

    backbone: str
    input_size: int
    groups: int = 4
    iam_activation: Literal["sigmoid", "softmax"] = "sigmoid"
    crop: bool = False
    ap_val: float | None = None
    ap_test: float | None = None
    fps: float | None = None

    @property
    def network(self) -> NetworkConfig:
        """The architecture, for COCO's 80 classes."""
        decoder = DecoderConfig(groups=self.groups, iam_activation=self.iam_activation)
        return NetworkConfig(self.backbone, decoder=decoder)


VARIANTS: dict[str, Variant] = {
    "r50_base": Variant("resnet50", 640, groups=1, ap_val=32.8, ap_test=33.2, fps=44.3),
    "r50vd_base": Variant("resnet50d", 640, groups=1, ap_val=34.1, ap_test=34.5, fps=42.6),
    "r50_giam": Variant("resnet50", 608, ap_val=33.4, ap_test=34.0, fps=44.6),
    "r50_giam_soft": Variant("resnet50", 608, iam_activation="softmax", ap_val=33.6, fps=44.6),
    "r50_giam_aug": Variant("resnet50", 608, crop=True, ap_val=34.2, ap_test=34.7, fps=44.6),
    "r50_dcn_giam_aug": Variant("resnet50_dcn", 608, crop=True, ap_val=36.4, ap_test=36.8, fps=41.6),
    "r50vd_giam_aug": Variant("resnet50d", 608, crop=True, ap_val=35.6, ap_test=36.1, fps=42.8),
    "r50vd_dcn_giam_aug": Variant("resnet50d_dcn", 608, crop=True, ap_val=37.4, ap_test=37.9, fps=40.0),
    "r101_giam": Variant("resnet101", 640, ap_val=34.9, ap_test=35.5),
    "r101_dcn_giam": Variant("resnet101_dcn", 640, ap_val=36.4, ap_test=36.9),
    "cspdarknet53_giam": Variant("cspdarknet53", 640, iam_activation="softmax", ap_val=35.1),
    "pvt_b1_giam": Variant("pvt_v2_b1", 640, ap_val=35.3, ap_test=36.0, fps=33.5),
    "pvt_b2_li_giam": Variant("pvt_v2_b2_li", 640, ap_val=37.2, ap_test=38.2, fps=26.5),
    # Configurations of the published code without published weights or figures.
    "r50vd_giam": Variant("resnet50d", 608),
    "r50vd_dcn_giam": Variant("resnet50d_dcn", 608),
    "darknet53_giam": Variant("darknet53", 640),
}


def get_variant(name: str) -> Variant:
    """A variant by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant is {name!r}; wanted one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def markdown_table() -> str:
    """All variants as the table of `docs/variants.md`, figures as published."""
    lines = [
        "| recipe | backbone | IAM | crops | short side | AP val2017 | AP test-dev | FPS | reproduced here |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, variant in VARIANTS.items():
        iam = f"{variant.groups} group{'s' if variant.groups > 1 else ''}, {variant.iam_activation}"
        figures = (variant.ap_val, variant.ap_test, variant.fps)
        cells = (
            f"`{name}`",
            variant.backbone,
            iam,
            "yes" if variant.crop else "no",
            str(variant.input_size),
            *("-" if figure is None else f"{figure:.1f}" for figure in figures),
            REPRODUCED,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
