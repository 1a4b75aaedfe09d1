"""From maps to run lengths: the runtime's way against the published one, in time and in pixels.

    .venv/bin/python ci/benchmark_masks.py --instances 20 100

The published way paints every mask at full size: probabilities resized to the padded input, cropped, resized to the
picture, thresholded, encoded by pycocotools. Both get the same maps, of an input of 640x640 and a picture of 1920x1080:
drawn ellipses, and what the bundled network draws on the bundled scenes, moved about until there are enough.
One thread, processor time, medians; the two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from sparseinst.checkpoint import load_model
from sparseinst.network import score
from sparseinst.network.head import normalise
from sparseinst_runtime.decode import decode
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.masks import segment

ROOT = Path(__file__).resolve().parents[1]
LETTERBOX = Letterbox.fit(1080, 1920, (640, 640))
THRESHOLD = 0.45
NODES = 160  # a side of the maps
WORTH = 300  # nodes above the threshold: smaller maps of the network are noise


@dataclass(frozen=True)
class Line:
    """One line of the table: milliseconds of processor time, and how the masks differ."""

    maps: str
    instances: int
    runtime: float
    published: float
    differing: float  # of all pixels
    distance: int  # of the farthest differing pixel from the outline of either mask, in pixels


def main() -> int:
    """Measure and write a Markdown table to stdout."""
    parser = argparse.ArgumentParser(description="Time and pixels of the mask step, against the published way.")
    parser.add_argument("--instances", type=int, nargs="+", default=[20, 100], metavar="K", help="%(default)s")
    parser.add_argument("--repeats", type=int, default=15, help="%(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kinds: dict[str, Callable[[int], np.ndarray]] = {
        "large ellipses": lambda count: ellipses(count, (0.08, 0.3)),
        "small ellipses": lambda count: ellipses(count, (0.02, 0.12)),
        "network's": network_maps,
    }
    cases = [(name, maps(count)) for count in options.instances for name, maps in kinds.items()]
    lines = [
        measure(name, maps, options.repeats) for name, maps in track(cases, "measuring", console=Console(stderr=True))
    ]
    sys.stdout.write("| maps | K | runtime, ms | published, ms | ratio | pixels that differ | off both outlines |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|---:|---:|\n")
    for line in lines:
        sys.stdout.write(
            f"| {line.maps} | {line.instances} | {line.runtime:.1f} | {line.published:.0f} | "
            f"{line.published / line.runtime:.0f} | {100 * line.differing:.4f} % | {line.distance} px |\n"
        )
    return 0


def measure(name: str, maps: np.ndarray, repeats: int) -> Line:
    """Time both ways on float32 maps [K, 160, 160] in 0..1 and compare their masks; the runtime gets uint8."""
    count = len(maps)
    scores, labels = np.ones(count, np.float32), np.zeros(count, np.int32)
    rounded = (maps * 255).round().astype(np.uint8)
    seconds: dict[str, list[float]] = {"runtime": [], "published": []}
    for i in range(repeats + 1):
        start = time.process_time()
        ours = segment(scores, labels, rounded, LETTERBOX, score_threshold=0.3, mask_threshold=THRESHOLD)
        seconds["runtime"].append(time.process_time() - start)
        if i < 3:
            start = time.process_time()
            theirs = published(maps)
            seconds["published"].append(time.process_time() - start)
    medians = {way: 1000 * statistics.median(each[1:]) for way, each in seconds.items()}
    differing, distance = 0, 0
    for index, rle in enumerate(theirs):
        reference = coco_mask.decode(rle)
        differs = reference != ours.mask(index)
        differing += int(differs.sum())
        if differs.any():
            outlines = [
                cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
                for mask in (reference, ours.mask(index))
            ]
            away = cv2.distanceTransform(1 - (outlines[0] | outlines[1]), cv2.DIST_C, 3)
            distance = max(distance, int(away[differs].max()))
    pixels = count * LETTERBOX.height * LETTERBOX.width
    return Line(name, count, medians["runtime"], medians["published"], differing / pixels, distance)


def published(maps: np.ndarray) -> list[dict[str, object]]:
    """Run lengths of every mask, painted at full size; twenty at a time, for the memory."""
    rles = []
    box = LETTERBOX
    for part in torch.from_numpy(maps).split(20):
        padded = F.interpolate(part[None], box.size, mode="bilinear", align_corners=False)
        cropped = padded[:, :, : box.scaled_height, : box.scaled_width]
        masks = F.interpolate(cropped, (box.height, box.width), mode="bilinear", align_corners=False)[0] > THRESHOLD
        rles += [coco_mask.encode(np.asfortranarray(mask.numpy().view(np.uint8))) for mask in masks]
    coco_mask.toBbox(rles)
    return rles


def ellipses(count: int, axes: tuple[float, float]) -> np.ndarray:
    """Maps float32 [K, 160, 160] of soft-edged ellipses with these semi-axes, in sides of the picture."""
    rng = np.random.default_rng(0)
    scale = np.array([[LETTERBOX.scaled_height], [LETTERBOX.scaled_width]]) / 4
    (cy, cx), (ay, ax) = rng.uniform(0.1, 0.9, (2, count)) * scale, rng.uniform(*axes, (2, count)) * scale
    rows, columns = np.mgrid[:NODES, :NODES][:, None] + 0.5
    distance = np.hypot(
        (rows - cy[:, None, None]) / ay[:, None, None], (columns - cx[:, None, None]) / ax[:, None, None]
    )
    maps: np.ndarray = (1 / (1 + np.exp(10 * (distance - 1).clip(-5, 5)))).astype(np.float32)
    return maps


@torch.inference_mode()
def network_maps(count: int) -> np.ndarray:
    """Maps float32 [K, 160, 160] of the bundled network on scenes of 1920x1080, its input enlarged to 640x640."""
    model, contract = load_model(ROOT / "assets/models/animals/model.safetensors")
    contract = replace(contract, input_size=LETTERBOX.size)
    drawn: list[np.ndarray] = []
    for path in sorted((ROOT / "assets/scenes/images").glob("*.jpg")):
        picture = cv2.resize(decode(path.read_bytes()), (1920, 1080), interpolation=cv2.INTER_CUBIC)
        pixels = LETTERBOX.apply(picture, contract.pad_colour)
        maps = score(model.eval()(normalise(torch.from_numpy(pixels)[None], contract)), THRESHOLD)[2][0].numpy()
        drawn += [each for each in maps if (each > THRESHOLD).sum() >= WORTH]
    rng = np.random.default_rng(0)
    moved = [cv2.warpAffine(drawn[i % len(drawn)], _shift(rng), (NODES, NODES)) for i in range(count)]
    return np.stack([each if (each > THRESHOLD).any() else drawn[0] for each in moved])


def _shift(rng: np.random.Generator) -> np.ndarray:
    """A matrix that moves a map by up to a quarter of its width and an eighth of its height, by whole nodes."""
    return np.array([[1, 0, rng.integers(-40, 41)], [0, 1, rng.integers(-20, 21)]], np.float32)


if __name__ == "__main__":
    sys.exit(main())
