"""How fast a network segments pictures in PyTorch, part by part, as table 8 of the paper asks it.

The parts are those of the model that is evaluated and exported (`ServingModel`), timed between its own modules, and the
mask step of the runtime behind it. As published, loading, resizing and normalising are left out of the total.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparseinst.cost import PARTS, multiply_adds, parameters
from sparseinst.network import ServingModel, SparseInst
from sparseinst.stopwatch import Stopwatch
from sparseinst_runtime import Contract
from sparseinst_runtime.contract import MASK_STRIDE
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.masks import segment

Precision = Literal["fp32", "amp"]
LEFT_OUT = "normalise"
COLUMNS = (*PARTS, "scoring", "masks")
ELLIPSE_AXES = (0.08, 0.3)  # semi-axes of drawn instances, in sides of the picture


@dataclass(frozen=True)
class Setting:
    """How a network is measured.

    Attributes:
        batch_size: pictures in one forward pass.
        precision: `amp` autocasts: fp16 on a GPU, bf16 on a CPU.
        repeats: repetitions that count.
        warmup: repetitions before them.
        instances: how many drawn instances the mask step gets for each picture.
        original: height and width in pixels of the pictures that the mask step leads back to.
    """

    batch_size: int = 1
    precision: Precision = "fp32"
    repeats: int = 20
    warmup: int = 3
    instances: int = 20
    original: tuple[int, int] = (720, 1280)


@dataclass(frozen=True)
class Speed:
    """What was measured at one input size.

    Attributes:
        height: of the input, in pixels.
        width: likewise.
        milliseconds: medians for a batch, by part: `normalise` and those of `COLUMNS`.
        instances: in each picture, when its masks were made.
        original: height and width of the pictures that the masks were made for.
        multiply_adds: of one picture, by part of the network.
        parameters: by part of the network.
    """

    height: int
    width: int
    batch_size: int
    milliseconds: dict[str, float]
    instances: int
    original: tuple[int, int]
    multiply_adds: dict[str, int]
    parameters: dict[str, int]

    @property
    def total(self) -> float:
        """Milliseconds for a batch, normalising left out."""
        return sum(self.milliseconds[part] for part in COLUMNS)

    @property
    def pictures_per_second(self) -> float:
        """Throughput with one batch after the other."""
        return 1000 * self.batch_size / self.total


def measure(
    model: SparseInst,
    contract: Contract,
    size: tuple[int, int],
    setting: Setting,
    *,
    device: torch.device,
    picture: NDArray[np.uint8] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Speed:
    """Measure a network at one input size.

    Args:
        model: what is measured; it is moved to `device`, its weights to the channels_last layout.
        contract: pixel statistics and thresholds.
        size: height and width of the input in pixels, multiples of 32.
        setting: how.
        device: where the network runs; masks are always made on the CPU.
        picture: uint8 RGB [H,W,3] that is segmented, letterboxed into `size`. By default the network sees
            random pixels, and the masks are of `setting.instances` drawn ellipses: random pixels show nothing.
        tick: called after each repetition.

    Raises:
        ValueError: a size that the network cannot take.
    """
    height, width = size
    costs = multiply_adds(model, height, width)
    original = setting.original if picture is None else (picture.shape[0], picture.shape[1])
    letterbox = Letterbox.fit(original[0], original[1], size)
    if picture is None:
        pixels = np.random.default_rng(0).integers(0, 256, (setting.batch_size, height, width, 3), np.uint8)
        drawn = _draw(letterbox, setting.instances)
    else:
        pixels = np.repeat(letterbox.apply(picture, contract.pad_colour)[None], setting.batch_size, axis=0)

    serving = ServingModel(model.to(memory_format=torch.channels_last), contract).eval().to(device)
    images = torch.from_numpy(pixels).to(device)
    watch = Stopwatch(device)
    hooks = _lap_between_parts(model, watch)
    instances = 0
    try:
        with torch.inference_mode(), _autocast(device, setting.precision), _tuned():
            for _ in range(setting.warmup + setting.repeats):
                watch.start()
                scores, labels, masks = (output.cpu().numpy() for output in serving(images))
                watch.lap("scoring")
                for b in range(setting.batch_size):
                    kept = drawn if picture is None else (scores[b], labels[b], masks[b])
                    found = segment(
                        kept[0],
                        kept[1],
                        kept[2],
                        letterbox,
                        score_threshold=contract.score_threshold,
                        mask_threshold=contract.mask_threshold,
                    )
                    instances = len(found.scores)
                watch.lap("masks")
                tick()
    finally:
        for hook in hooks:
            hook.remove()
    medians = {part: 1000 * lap.wall for part, lap in watch.medians(setting.warmup).items()}
    return Speed(height, width, setting.batch_size, medians, instances, original, costs, parameters(model))


def _lap_between_parts(model: SparseInst, watch: Stopwatch) -> list[Any]:
    """Hooks that take a lap before the first part and after each."""

    def after(part: str) -> Callable[..., None]:
        return lambda *_: watch.lap(part)

    parts: list[tuple[str, nn.Module]] = [(part, model.get_submodule(part)) for part in PARTS]
    first = parts[0][1].register_forward_pre_hook(after(LEFT_OUT))
    return [first, *(module.register_forward_hook(after(part)) for part, module in parts)]


def _draw(letterbox: Letterbox, instances: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8]]:
    """Sure scores, labels and uint8 mask maps of ellipses with soft edges, spread over the picture in its letterbox."""
    rng = np.random.default_rng(0)
    height, width = (side // MASK_STRIDE for side in letterbox.size)
    scale = np.array([letterbox.scaled_height, letterbox.scaled_width])[:, None] / MASK_STRIDE
    centre = rng.uniform(0.1, 0.9, (2, instances)) * scale
    axes = rng.uniform(*ELLIPSE_AXES, (2, instances)) * scale
    y, x = np.mgrid[:height, :width] + 0.5
    (cy, cx), (ay, ax) = centre[:, :, None, None], axes[:, :, None, None]
    distance = np.hypot((y - cy) / ay, (x - cx) / ax)
    masks = 255 / (1 + np.exp(10 * (distance - 1).clip(-5, 5)))
    return np.ones(instances, np.float32), np.zeros(instances, np.int32), masks.round().astype(np.uint8)


def _autocast(device: torch.device, precision: Precision) -> Any:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)


def _tuned() -> Any:
    """The fastest convolution for each shape, tried out by cuDNN during warm-up; nothing on a CPU."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32)
