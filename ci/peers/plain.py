"""The same weights in plain PyTorch, the way published demos run them: eager float32, full-size probability maps.

Pillow decodes and resizes, the network runs as a module, every kept instance's probabilities are brought to the padded
input, cropped, brought to the picture's size and compared with the threshold, and pycocotools encodes the pixels.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from peers.contenders import Answer, Segment, Setting
from peers.models import load


def plain(setting: Setting) -> Segment:
    """The pipeline for a model; its frame is the same as the served one, with the same padding."""
    torch.set_num_threads(setting.threads)
    network, contract = load(setting.model), setting.model.contract
    height, width = contract.input_size
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (contract.mean, contract.std))

    @torch.inference_mode()
    def segment(picture: bytes) -> Answer:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        scale = min(height / image.height, width / image.width)
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (image.height, image.width))
        resized = image.resize((columns, rows), Image.Resampling.BILINEAR)
        pixels = (torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() - mean) / std
        outputs = network(F.pad(pixels, (0, width - columns, 0, height - rows))[None])
        classes = outputs["pred_logits"][0].sigmoid().amax(dim=-1)
        confidence = (classes * outputs["pred_scores"][0, :, 0].sigmoid()).sqrt()
        maps = outputs["pred_masks"][0].sigmoid()
        inside = (maps > contract.mask_threshold).float()
        scores = confidence * (maps * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
        scores, best = scores.sort(descending=True)
        scores, maps = scores[: setting.instances], maps[best[: setting.instances]]
        maps = F.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[..., :rows, :columns]
        maps = F.interpolate(maps, (image.height, image.width), mode="bilinear", align_corners=False)[0]
        return encoded((maps > contract.mask_threshold).numpy(), scores.numpy())

    return segment


def encoded(masks: np.ndarray, scores: np.ndarray) -> Answer:
    """Run lengths of masks bool [N,H,W], those without a pixel dropped; scores float32 [N]."""
    kept = masks.any(axis=(1, 2))
    runs = coco_mask.encode(np.asfortranarray(masks[kept].transpose(1, 2, 0).astype(np.uint8)))
    return Answer(
        (masks.shape[1], masks.shape[2]), tuple(run["counts"] for run in runs), scores[kept].astype(np.float32)
    )
