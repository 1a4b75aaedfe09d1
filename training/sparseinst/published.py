"""Checkpoints of the published code: their tensor names, and their weights as a model of ours.

Encoder and decoder bear the published names here too; only backbones come from a library with names of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseinst.network import NetworkConfig, SparseInst
from sparseinst.recipes import get_recipe
from sparseinst.state_dicts import CheckpointError, compare, read_state_dict
from sparseinst.variants import VARIANTS, get_variant
from sparseinst_runtime import Contract
from sparseinst_runtime.coco import read_annotations

PIXEL_STATISTICS = ("pixel_mean", "pixel_std")  # buffers that some forks of the published code save

# Ours -> published, for the part of a name behind `backbone.features.`; applied from top to bottom.
_DEFORMABLE = (r"\.conv2\.offset\.", ".conv2_offset.")
_RESNET = (
    _DEFORMABLE,
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{stage}\.", f"res{stage + 1}.") for stage in (1, 2, 3, 4)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_RESNET_VD = (_DEFORMABLE,)
_DARKNET = ((r"^(stem|stages)_", r"\1."),)
_PVT = (
    (r"^patch_embed\.", "patch_embed1."),
    *((rf"^stages_{stage}\.downsample\.", f"patch_embed{stage + 1}.") for stage in (1, 2, 3)),
    *((rf"^stages_{stage}\.blocks\.", f"block{stage + 1}.") for stage in (0, 1, 2, 3)),
    *((rf"^stages_{stage}\.norm\.", f"norm{stage + 1}.") for stage in (0, 1, 2, 3)),
    (r"\.mlp\.dwconv\.", ".mlp.dwconv.dwconv."),
)
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "resnet50": _RESNET,
    "resnet50_dcn": _RESNET,
    "resnet101": _RESNET,
    "resnet101_dcn": _RESNET,
    "resnet50d": _RESNET_VD,
    "resnet50d_dcn": _RESNET_VD,
    "darknet53": _DARKNET,
    "cspdarknet53": _DARKNET,
    "pvt_v2_b1": _PVT,
    "pvt_v2_b2_li": _PVT,
}

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of 1..90
COCO_IDS = tuple(category_id for category_id in range(1, 91) if category_id not in COCO_UNUSED_IDS)


def published_name(name: str, backbone: str) -> str:
    """The published code's name of one of our tensors.

    Args:
        name: a key of our state dict.
        backbone: a key of `NAMES`.
    """
    prefix = "backbone.features."
    if not name.startswith(prefix):
        return name
    inner = name.removeprefix(prefix)
    for pattern, replacement in NAMES[backbone]:
        inner = re.sub(pattern, replacement, inner)
    return f"backbone.{inner}"


def layout(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a published checkpoint; nothing is allocated."""
    with torch.device("meta"):
        state = SparseInst(network).state_dict()
    return {published_name(name, network.backbone): tuple(tensor.shape) for name, tensor in state.items()}


class Imported(NamedTuple):
    """What an import gives.

    Attributes:
        model: the network in evaluation mode, float32.
        contract: its contract.
        left_out: names of the checkpoint's tensors that are no parameters of ours, and that were left out.
    """

    model: SparseInst
    contract: Contract
    left_out: tuple[str, ...]


def import_checkpoint(
    source: str | os.PathLike[str],
    variant: str,
    annotations: str | os.PathLike[str] | None = None,
    input_size: int | None = None,
) -> Imported:
    """A checkpoint of the published code as a model of ours, all of its tensors and nothing but them.

    Args:
        source: see `read_state_dict`.
        variant: a key of `VARIANTS`.
        annotations: COCO JSON whose categories are the classes; by default COCO's own 80.
        input_size: both sides of the contract's input, a multiple of 32; by default the variant's short side.

    Raises:
        CheckpointError: the file cannot be read, or its tensors are not those of the variant; the message lists what
            is missing, unexpected or misshapen.
        ValueError: no such variant, a size that is none, or annotations that cannot be read.
        OSError: likewise.
    """
    network = get_variant(variant).network
    recipe = get_recipe(variant)
    if not Path(source).is_file():
        raise CheckpointError(f"no checkpoint at {source}")
    everything = read_state_dict(source)
    names, ids = _classes(annotations)
    if len(names) != network.decoder.classes:
        network = _with_classes(network, len(names))
    wanted = layout(network)
    left_out = tuple(name for name in everything if name not in wanted and _is_no_parameter(name))
    state = {name: tensor for name, tensor in everything.items() if name not in left_out}
    if faults := compare(state, wanted):
        raise CheckpointError(f"{source} does not hold {variant} with {len(names)} classes:\n{faults}{_advice(state)}")
    side = recipe.input_size if input_size is None else input_size
    contract = Contract(
        classes=names,
        category_ids=ids,
        input_size=(side, side),
        max_instances=network.decoder.instances,
        score_threshold=recipe.score_threshold,
        name=variant,
    )
    _check_pixels(everything, contract)
    model = SparseInst(network)
    model.load_state_dict({name: state[published_name(name, network.backbone)] for name in model.state_dict()})
    return Imported(model.eval(), contract, left_out)


def _is_no_parameter(name: str) -> bool:
    """Counters of batch norms that are frozen in ours, and pixel statistics, which the contract holds."""
    return name in PIXEL_STATISTICS or name.endswith(".num_batches_tracked")


def _check_pixels(state: Mapping[str, Tensor], contract: Contract) -> None:
    """Pixel statistics may be left out because they say what the contract says; others would give wrong instances."""
    for name, wanted in zip(PIXEL_STATISTICS, (contract.mean, contract.std), strict=True):
        got = [round(value, 3) for value in state[name].flatten().tolist()] if name in state else list(wanted)
        if got != list(wanted):
            raise CheckpointError(
                f"the checkpoint's {name} is {got}, wanted {list(wanted)} (RGB on 0..255): its network was trained on "
                "pixels that are normalised, or ordered, in another way than the published ones"
            )


def _advice(state: Mapping[str, Tensor]) -> str:
    """Which variants, and which number of classes, the tensors would fit."""
    head = state.get("decoder.inst_branch.cls_score.weight")
    if head is None or head.ndim == 0:
        return "  it fits no variant"
    fitting = [
        name
        for name, variant in VARIANTS.items()
        if not compare(state, layout(_with_classes(variant.network, len(head))))
    ]
    if not fitting:
        return "  it fits no variant"
    return f"  it fits {', '.join(fitting)} with {len(head)} classes; --variant and --annotations choose"


def _with_classes(network: NetworkConfig, classes: int) -> NetworkConfig:
    return replace(network, decoder=replace(network.decoder, classes=classes))


def _classes(annotations: str | os.PathLike[str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids in the order of the ids, which is the order of labels in the published code."""
    if annotations is None:
        return COCO_CLASSES, COCO_IDS
    categories: list[dict[str, Any]] = read_annotations(annotations)["categories"]
    try:
        named = sorted((category["id"], category["name"]) for category in categories)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a category of {annotations} lacks id or name; wanted COCO's instances JSON") from error
    return tuple(name for _, name in named), tuple(category_id for category_id, _ in named)
