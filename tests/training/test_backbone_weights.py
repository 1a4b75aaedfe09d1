"""ImageNet weights of every backbone: a whole classifier of its library, saved as it is, gives the library's maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from sparseinst.network.backbone import BACKBONES, MobileNetV2, TimmBackbone, build_backbone, load_imagenet_weights


def classifier(name: str) -> nn.Module:
    """The library's model with other numbers in every tensor, statistics of batch norms too."""
    torch.manual_seed(5)
    model = mobilenet_v2(weights=None) if name == "mobilenet_v2" else timm.create_model(name.removesuffix("_dcn"))
    for tensor_name, tensor in model.state_dict().items():
        if tensor.dtype.is_floating_point and tensor.ndim <= 1:
            (tensor.uniform_(0.8, 1.2) if "weight" in tensor_name or "var" in tensor_name else tensor.normal_(0, 0.1))
    return model.eval()


def library_maps(name: str, model: nn.Module, path: Path, images: torch.Tensor) -> list[torch.Tensor]:
    """Strides 8, 16 and 32 as the library itself gives them out, from the file it would read."""
    if name == "mobilenet_v2":
        return [model.features[:last](images) for last in (7, 14, 18)]
    options = {"file": str(path)}
    features = timm.create_model(
        name.removesuffix("_dcn"), pretrained=True, pretrained_cfg_overlay=options, features_only=True
    ).eval()
    maps = {images.shape[2] // each.shape[2]: each for each in features(images)}
    return [maps[stride] for stride in (8, 16, 32)]


@pytest.mark.parametrize("name", BACKBONES)
def test_weights_of_the_library_load_whole_and_give_its_maps(tmp_path, name: str):
    model = classifier(name)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        for tensor in backbone.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.fill_(float("nan"))  # what is not read is found out
        for module in backbone.modules():
            if offset := getattr(module, "offset", None):
                nn.init.zeros_(offset.weight)
                nn.init.zeros_(offset.bias)
    load_imagenet_weights(backbone, path)
    assert isinstance(backbone, MobileNetV2 | TimmBackbone)
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps, wanted = backbone(images), library_maps(name, model, path, images)
    for mine, theirs in zip(maps, wanted, strict=True):
        assert theirs.std() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.std()))


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_checkpoints_of_trainers_load_as_well(tmp_path, wrapper: str):
    model = classifier("mobilenet_v2")
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "weights.pth")
    backbone = build_backbone("mobilenet_v2").eval()
    load_imagenet_weights(backbone, tmp_path / "weights.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images)[-1], model.features[:18](images))
