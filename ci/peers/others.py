"""Instance segmentation that one can install: torchvision's Mask R-CNN, and Mask2Former where transformers is there.

Architectures with random weights: nothing is downloaded, speed is the same, what they find is not looked at. So that
they have about as much to post-process as trained ones, their thresholds are set by a few pictures beforehand.
"""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from peers.contenders import Answer, NotHereError, Segment, Setting
from peers.plain import encoded

CANDIDATES = 100  # boxes above the threshold before suppression, of a thousand; a trained detector has dozens


def mask_rcnn(setting: Setting) -> Segment:
    """Mask R-CNN, ResNet-50 with feature pyramid, as torchvision has it, at our input size."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn  # noqa: PLC0415

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    side = max(setting.model.contract.input_size)
    network: Any = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=side,
        max_size=side,
        box_score_thresh=0.0,
        box_detections_per_img=setting.instances,
    ).eval()
    _liven(network.backbone, _tensor(setting.pictures[0]))
    _choose_candidates(network, setting)

    @torch.inference_mode()
    def segment(picture: bytes) -> Answer:
        found = network([_tensor(picture)])[0]
        return encoded((found["masks"][:, 0] > 0.5).numpy(), found["scores"].numpy())

    return segment


def mask2former(setting: Setting) -> Segment:
    """Mask2Former with its smallest backbone (Swin-T), 100 queries, as transformers has it."""
    if importlib.util.find_spec("transformers") is None:
        raise NotHereError("transformers is not installed (.venv/bin/pip install transformers)")
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation  # noqa: PLC0415

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    network: Any = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=80)).eval()
    contract = setting.model.contract
    height, width = contract.input_size
    mean, std = (torch.tensor(values).view(3, 1, 1) / 255 for values in (contract.mean, contract.std))

    @torch.inference_mode()
    def segment(picture: bytes) -> Answer:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        resized = image.resize((width, height), Image.Resampling.BILINEAR)  # its processor stretches, too
        pixels = (torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255 - mean) / std
        outputs = network(pixel_values=pixels[None])
        classes = outputs.class_queries_logits[0].softmax(-1)[:, :-1].amax(-1)
        scores, best = classes.sort(descending=True)
        best = best[: setting.instances]
        maps = nn.functional.interpolate(
            outputs.masks_queries_logits[:, best], (image.height, image.width), mode="bilinear", align_corners=False
        )[0]
        return encoded((maps > 0).numpy(), scores[: setting.instances].numpy())

    return segment


def _tensor(picture: bytes) -> torch.Tensor:
    """RGB [3,H,W] on 0..1, what torchvision's detectors take."""
    image = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def _liven(backbone: nn.Module, picture: torch.Tensor) -> None:
    # Random batch norms pass on ever smaller maps, and a processor is slow at the tiniest numbers.
    def scale(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        spread = output.std().clamp(min=1e-6)
        module.weight.div_(spread)
        return output / spread

    hooks = [m.register_forward_hook(scale) for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.bias is None]
    with torch.no_grad():
        backbone(picture[None] - picture.mean())
    for hook in hooks:
        hook.remove()


def _choose_candidates(network: Any, setting: Setting) -> None:
    """Set the score threshold between the CANDIDATES best boxes and the others, in the mean over the pictures."""
    seen: list[torch.Tensor] = []
    hook = network.roi_heads.box_predictor.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0].softmax(-1)[:, 1:].flatten())
    )
    with torch.inference_mode():
        for picture in setting.pictures:
            network([_tensor(picture)])
    hook.remove()
    thresholds = [scores.topk(CANDIDATES).values[-1].item() for scores in seen]
    network.roi_heads.score_thresh = float(np.median(thresholds))
