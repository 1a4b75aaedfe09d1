"""Batches for training, the same whatever the number of workers, and resumable at any batch.

The order of an epoch depends on (seed, epoch), the randomness of an item on (seed, epoch, index): there is no state
to save. Workers prepare pictures and mask targets; normalising is left to the device that trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sparseinst.data.coco import CocoInstances, DataError, Sample
from sparseinst.data.short_side import ShortSideConfig, augment_short_side
from sparseinst.data.transforms import AugmentConfig, augment, mosaic
from sparseinst_runtime.contract import STRIDE

Key = tuple[int, ...]  # seed, epoch, index; and the side of the batch, where it is not the data set's own


class Target(TypedDict):
    """What a picture should be segmented into: labels int64 [K]; masks float32 [K, H/4, W/4] in 0..1, soft."""

    labels: torch.Tensor
    masks: torch.Tensor


Batch = tuple[torch.Tensor, list[Target]]  # images uint8 [B, H, W, 3] RGB, one target per picture


class TrainingSet(Dataset[Sample]):
    """Augmented samples; an item is addressed by (seed, epoch, index) and is always the same for the same key.

    Args:
        instances: the pictures.
        size: side S of the square input, a multiple of 32; `ShortSideConfig` draws sizes of its own, and so do the
            `sides` of an `AugmentConfig`.
        config: strengths of the augmentation.
        pad_colour: RGB 0..255 around pictures that do not fill the square, as in the contract.
    """

    def __init__(
        self,
        instances: CocoInstances,
        size: int,
        config: AugmentConfig | ShortSideConfig,
        pad_colour: tuple[int, int, int],
    ) -> None:
        self.instances, self.size, self.config, self.pad_colour = instances, size, config, pad_colour
        self._showing: dict[int, list[int]] = {}  # class -> indices of the pictures that show it
        for index in range(len(instances)):
            for label in instances.labels(index):
                self._showing.setdefault(label, []).append(index)

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, key: Key) -> Sample:
        seed, epoch, index, *drawn = key
        size, config = drawn[0] if drawn else self.size, self.config
        rng = np.random.default_rng((seed, epoch, index))
        if isinstance(config, ShortSideConfig):
            return augment_short_side(self.instances.sample(index), config, rng)
        if config.mosaic and rng.random() < config.mosaic:
            indices = (index, *(self._companion(index, config, rng) for _ in range(3)))
            return mosaic([self._augmented(each, size // 2, config, rng) for each in indices])
        return self._augmented(index, size, config, rng)

    def sides(self, seed: int, epoch: int, batches: int) -> list[tuple[int, ...]]:
        """For each batch of an epoch, the end of its keys: the drawn side, or nothing where there is none to draw."""
        config = self.config
        if isinstance(config, ShortSideConfig) or not config.sides:
            return [()] * batches
        # One draw for the whole epoch, which no process and no resumed run sees another way; the 1 sets it apart from
        # the draws of order and items.
        drawn = np.random.default_rng((seed, epoch, 0, 1)).choice(config.sides, batches)
        return [(int(side),) for side in drawn]

    def _augmented(self, index: int, size: int, config: AugmentConfig, rng: np.random.Generator) -> Sample:
        sample, pasted = self.instances.sample(index), None
        if rng.random() < config.copy_paste:
            pasted = self.instances.sample(self._companion(index, config, rng))
        return augment(sample, size, config, rng, pad_colour=self.pad_colour, pasted=pasted)

    def _companion(self, index: int, config: AugmentConfig, rng: np.random.Generator) -> int:
        """Another picture, or this one once more: any, or one that shows the same class."""
        labels = sorted(self.instances.labels(index))
        if labels and rng.random() < config.same_class:
            return int(rng.choice(self._showing[int(rng.choice(labels))]))
        return int(rng.integers(len(self.instances)))


def batches_per_epoch(dataset: TrainingSet, batch_size: int, world_size: int = 1) -> int:
    """Full batches that each of `world_size` processes gets in one epoch; the rest is dropped.

    Raises:
        DataError: not even one batch.
    """
    count = len(dataset) // (batch_size * world_size)
    if count == 0:
        raise DataError(f"{len(dataset)} pictures fill no batch of {batch_size} x {world_size}; lower the batch size")
    return count


def training_batches(
    dataset: TrainingSet,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    start_batch: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The batches of one epoch, from `start_batch` on; those before it are skipped without reading a picture.

    Args:
        dataset: the samples.
        batch_size: B, pictures per batch and process.
        seed: of the run.
        epoch: number of the epoch, from 0.
        start_batch: first batch to give; equals the number of batches already trained on in this epoch.
        workers: processes that prepare batches; 0 prepares them in this one.
        rank: of this process among `world_size`; each gets a share of its own of the same permutation.
        world_size: number of training processes.

    Returns:
        Iterator of (images uint8 [B, H, W, 3], B targets): squares of S, or of the side that was drawn for the batch,
        the same in all processes; with `ShortSideConfig` the largest height and width of the batch, each rounded up
        to a multiple of 32.
    """
    count = batches_per_epoch(dataset, batch_size, world_size)
    order = np.random.default_rng((seed, epoch)).permutation(len(dataset))
    mine = order[: count * batch_size * world_size][rank::world_size]
    sides = dataset.sides(seed, epoch, count)
    keys: list[Key] = [(seed, epoch, int(index), *sides[i // batch_size]) for i, index in enumerate(mine)]
    batches = [keys[i * batch_size : (i + 1) * batch_size] for i in range(start_batch, count)]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=partial(_collate, pad_colour=dataset.pad_colour),
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # or the loader would draw from the global one
    )
    return _unpacked(loader)


def mask_targets(masks: np.ndarray) -> np.ndarray:
    """Binary masks reduced to a quarter, left soft: uint8 [K, H, W] of 0 and 1 to float32 [K, H/4, W/4] in 0..1.

    Bilinear without antialiasing, as the network's authors train: at exactly 1/4 the sampling point lies in the middle
    of the inner 2x2 pixels of each 4x4 block, so it is their mean. An instance without a pixel there has an empty
    target: it teaches some query its class and an empty mask.
    """
    rows = masks[:, 1::4] + masks[:, 2::4]
    reduced: np.ndarray = (rows[:, :, 1::4] + rows[:, :, 2::4]).astype(np.float32) / 4
    return reduced


def evaluation_pictures(instances: CocoInstances) -> Iterator[tuple[int, np.ndarray]]:
    """Every picture as it is: (image_id, uint8 [H, W, 3] RGB); masks are not touched."""
    for index, image_id in enumerate(instances.image_ids):
        yield image_id, instances.image(index)


def evaluation_files(instances: CocoInstances) -> Iterator[tuple[int, bytes]]:
    """Every picture as a client would send it: (image_id, encoded file); masks are not touched."""
    for index, image_id in enumerate(instances.image_ids):
        yield image_id, instances.file(index)


# Between processes a batch travels as four tensors: one per target would exhaust file descriptors.
_Packed = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]


def _collate(samples: Sequence[Sample], pad_colour: tuple[int, int, int]) -> _Packed:
    # The least multiples of the stride that hold every picture; squares of one size are so already.
    height, width = (-(-max(sample.image.shape[axis] for sample in samples) // STRIDE) * STRIDE for axis in (0, 1))
    padded = [_padded(sample, height, width, pad_colour) for sample in samples]
    images = torch.from_numpy(np.stack([sample.image for sample in padded]))
    labels = torch.from_numpy(np.concatenate([sample.labels for sample in padded]))
    masks = torch.from_numpy(np.concatenate([mask_targets(sample.masks) for sample in padded]))
    return images, labels, masks, [len(sample.labels) for sample in padded]


def _padded(sample: Sample, height: int, width: int, pad_colour: tuple[int, int, int]) -> Sample:
    """The sample with padding right and bottom, up to [height, width]."""
    rows, columns = sample.image.shape[:2]
    if (rows, columns) == (height, width):
        return sample
    image = np.empty((height, width, 3), np.uint8)
    image[:] = pad_colour
    image[:rows, :columns] = sample.image
    masks = np.zeros((len(sample.masks), height, width), np.uint8)
    masks[:, :rows, :columns] = sample.masks
    return Sample(image, masks, sample.labels, sample.image_id)


def _unpacked(loader: DataLoader[Sample]) -> Iterator[Batch]:
    try:
        for packed in loader:
            yield _split(packed)
    except DataError as error:  # torch wraps what a worker raises into its traceback; the sentence is its last line
        raise DataError(str(error).strip().rpartition(f"{DataError.__name__}: ")[2]) from None


def _split(packed: _Packed) -> Batch:
    images, labels, masks, counts = packed
    pairs = zip(torch.split(labels, counts), torch.split(masks, counts), strict=True)
    return images, [Target(labels=label, masks=mask) for label, mask in pairs]


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one worker, one thread: more would fight with the training itself
