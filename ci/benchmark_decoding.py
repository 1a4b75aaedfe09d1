"""From a picture file to the network's frame: decoders and reduced scales, in time, in pixels and in AP.

    .venv/bin/python ci/benchmark_decoding.py
    .venv/bin/python ci/benchmark_decoding.py --accuracy 3 6 --annotations val.json --images val/

The first takes JPEGs of 640x480, 1920x1080 and 4000x3000 that are laid out of the bundled scenes. The second enlarges
the pictures of a dataset by each factor, saves them as JPEGs, and gives the bundled network's AP on each way's pixels.
One thread, processor time, medians; the ways take turns. simplejpeg is measured too where it is installed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from sparseinst.checkpoint import load_model
from sparseinst.data import CocoInstances
from sparseinst.evaluate import torch_engine
from sparseinst_runtime import decode as served
from sparseinst_runtime.coco import EVALUATION_THRESHOLD, ground_truth, mask_ap
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.masks import segment

ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "assets/scenes"
PAD = (124, 116, 104)
SPARES = (1, 2, served.SPARE)  # how often larger than the scaled picture a reduced one stays
Way = Callable[[bytes, tuple[int, int]], np.ndarray]


def main() -> int:
    """Measure and write Markdown tables to stdout."""
    parser = argparse.ArgumentParser(description="Decoding and letterboxing: time, pixels and accuracy.")
    parser.add_argument("--repeats", type=int, default=9, help="%(default)s")
    parser.add_argument("--accuracy", type=int, nargs="+", metavar="FACTOR", help="AP on pictures enlarged by these")
    parser.add_argument("--annotations", type=Path, default=SCENES / "instances.json", help="COCO JSON, for --accuracy")
    parser.add_argument("--images", type=Path, default=SCENES / "images", help="folder of its pictures")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if options.accuracy:
        accuracy(options.accuracy, options.annotations, options.images)
    else:
        speed(options.repeats)
    return 0


def ways() -> dict[str, Way]:
    """Every way to decode and letterbox; the first is what the others are held against."""
    found: dict[str, Way] = {"Pillow, in full": pillow(None), "OpenCV, in full": reduced(99)}
    found |= {f"Pillow, spare {spare}": pillow(spare) for spare in SPARES}
    found |= {f"OpenCV, spare {spare}": reduced(spare) for spare in SPARES}
    try:
        simplejpeg = import_module("simplejpeg")
    except ImportError:
        return found
    return found | {f"simplejpeg, spare {spare}": turbo(simplejpeg, spare) for spare in SPARES}


def reduced(spare: int) -> Way:
    """What is served, with this spare."""

    def way(data: bytes, size: tuple[int, int]) -> np.ndarray:
        served.SPARE = spare
        return served.decode_letterboxed(data, size, PAD)[0]

    return way


def pillow(spare: int | None) -> Way:
    """Pillow, which calls the reduced scale a draft."""

    def way(data: bytes, size: tuple[int, int]) -> np.ndarray:
        picture = Image.open(io.BytesIO(data))
        box = Letterbox.fit(picture.height, picture.width, size)
        if spare:
            reduction = _reduction(box, spare)
            picture.draft("RGB", (picture.width // reduction, picture.height // reduction))
        return box.place(np.asarray(picture.convert("RGB")), PAD)

    return way


def turbo(simplejpeg: Any, spare: int) -> Way:
    """libjpeg-turbo's own interface."""

    def way(data: bytes, size: tuple[int, int]) -> np.ndarray:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        box = Letterbox.fit(height, width, size)
        reduction = _reduction(box, spare)
        least = {"min_height": height // reduction, "min_width": width // reduction} if reduction > 1 else {}
        return box.place(simplejpeg.decode_jpeg(data, "RGB", **least), PAD)

    return way


def _reduction(box: Letterbox, spare: int) -> int:
    served.SPARE = spare
    return served._reduction(box)


def speed(repeats: int) -> None:
    """Processor time of every way, and the mean difference of its pixels."""
    all_ways = ways()
    sys.stdout.write(f"| JPEG | frame | {' | '.join(all_ways)} |\n|---|---|{'---:|' * len(all_ways)}\n")
    for width, height in ((640, 480), (1920, 1080), (4000, 3000)):
        data = _layout(width, height)
        for side in (320, 640):
            seconds: dict[str, list[float]] = {name: [] for name in all_ways}
            pixels = {}
            for _ in range(repeats):
                for name, way in all_ways.items():
                    start = time.process_time()
                    pixels[name] = way(data, (side, side))
                    seconds[name].append(time.process_time() - start)
            truth = next(iter(pixels.values())).astype(int)
            cells = [
                f"{1000 * statistics.median(seconds[name]):.1f} ({np.abs(pixels[name] - truth).mean():.2f})"
                for name in all_ways
            ]
            sys.stdout.write(f"| {width}x{height}, {len(data) // 1000} kB | {side} | {' | '.join(cells)} |\n")


def accuracy(factors: list[int], annotations: Path, images: Path) -> None:
    """AP by way, the pictures enlarged by each factor; instances are brought into the pictures as they were."""
    model, contract = load_model(ROOT / "assets/models/animals/model.safetensors")
    engine, truth = torch_engine(model, contract), ground_truth(annotations, contract)
    dataset = CocoInstances(annotations, images, keep_empty=True)
    tried = {"in full": reduced(99)} | {f"spare {spare}": reduced(spare) for spare in SPARES}
    sys.stdout.write(f"| enlarged | {' | '.join(tried)} |\n|---:|{'---:|' * len(tried)}\n")
    console = Console(stderr=True)
    for factor in factors:
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in tried}
        for index in track(range(len(dataset)), f"enlarged {factor} times", console=console):
            picture = Image.fromarray(dataset.image(index))
            box = Letterbox.fit(picture.height, picture.width, contract.input_size)
            file = io.BytesIO()
            picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.BICUBIC).save(
                file, "JPEG", quality=90
            )
            for name, way in tried.items():
                scores, labels, masks = (part[0] for part in engine(way(file.getvalue(), contract.input_size)[None]))
                found = segment(
                    scores,
                    labels,
                    masks,
                    box,
                    score_threshold=EVALUATION_THRESHOLD,
                    mask_threshold=contract.mask_threshold,
                )
                results[name] += found.to_coco(dataset.image_ids[index], contract.category_ids)
        cells = [f"{mask_ap(truth, rows, dataset.image_ids).ap:.4f}" for rows in results.values()]
        sys.stdout.write(f"| {factor} | {' | '.join(cells)} |\n")


def _layout(width: int, height: int) -> bytes:
    """A JPEG of quality 90: the bundled scenes at twice their size, side by side, with grain as cameras give it."""
    picture = Image.new("RGB", (width, height))
    scenes = [Image.open(path) for path in sorted((SCENES / "images").glob("*.jpg"))]
    for number, y in enumerate(range(0, height, 900)):
        for column, x in enumerate(range(0, width, 960)):
            scene = scenes[(5 * number + column) % len(scenes)]
            picture.paste(scene.resize((2 * scene.width, 2 * scene.height), Image.Resampling.BICUBIC), (x, y))
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
