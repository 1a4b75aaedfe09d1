"""Batches do not depend on the number of workers, and an epoch resumes at any batch."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from sparseinst.data import (
    AugmentConfig,
    CocoInstances,
    DataError,
    ShortSideConfig,
    TrainingSet,
    batches_per_epoch,
    mask_targets,
    training_batches,
)

COUNT, SIZE = 11, 64


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> TrainingSet:
    """Eleven noisy pictures with one or two rectangles each, augmented in every way."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(COUNT):
        height, width = (int(side) for side in rng.integers(40, 90, 2))
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (height, width, 3), np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for k in range(1 + i % 2):
            x, y = 2 + 15 * k, 3
            polygon = [x, y, x + 14, y, x + 14, y + 30, x, y + 30]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": k, "segmentation": [polygon]})
    categories = [{"id": 0, "name": "left"}, {"id": 1, "name": "right"}]
    raw = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(raw))
    instances = CocoInstances(folder / "instances.json", folder, keep_empty=False)
    return TrainingSet(instances, SIZE, AugmentConfig(mosaic=0.3, same_class=0.5), pad_colour=(124, 116, 104))


def flat(batch):
    images, targets = batch
    return [images, *(target[key] for target in targets for key in ("labels", "masks"))]


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(flat(x), flat(y), strict=True))


def test_a_batch_is_what_the_losses_expect(dataset):
    batches = list(training_batches(dataset, 4, seed=0, epoch=0))
    assert len(batches) == batches_per_epoch(dataset, 4) == 2  # eleven pictures: the rest is dropped
    for images, targets in batches:
        assert images.shape == (4, SIZE, SIZE, 3)
        assert images.dtype == torch.uint8
        assert len(targets) == 4
        for target in targets:
            count = len(target["labels"])
            assert target["labels"].dtype == torch.int64
            assert target["masks"].shape == (count, SIZE // 4, SIZE // 4)
            assert target["masks"].dtype == torch.float32
            assert 0 <= target["masks"].min() <= target["masks"].max() <= 1 if count else True
    assert sum(len(target["labels"]) for _, targets in batches for target in targets) > 4


def test_targets_are_those_of_their_picture(dataset):
    """What travels packed is taken apart at the right places."""
    order = np.random.default_rng((3, 1)).permutation(COUNT)
    for (images, targets), start in zip(training_batches(dataset, 3, seed=3, epoch=1), (0, 3, 6), strict=True):
        for image, target, index in zip(images, targets, order[start : start + 3], strict=True):
            sample = dataset[3, 1, int(index)]
            np.testing.assert_array_equal(image.numpy(), sample.image)
            np.testing.assert_array_equal(target["labels"].numpy(), sample.labels)
            np.testing.assert_array_equal(target["masks"].numpy(), mask_targets(sample.masks))


def test_workers_do_not_change_the_batches(dataset):
    alone = list(training_batches(dataset, 2, seed=1, epoch=0, workers=0))
    assert same(alone, list(training_batches(dataset, 2, seed=1, epoch=0, workers=2)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_resumes_at_any_batch(dataset, workers):
    whole = list(training_batches(dataset, 2, seed=1, epoch=4))
    for start in (1, 4, 5):
        assert same(
            whole[start:], list(training_batches(dataset, 2, seed=1, epoch=4, start_batch=start, workers=workers))
        )


def test_skipped_batches_are_not_read(dataset, monkeypatch):
    read = []
    sample = dataset.instances.sample
    monkeypatch.setattr(dataset.instances, "sample", lambda index: read.append(index) or sample(index))
    monkeypatch.setattr(dataset, "config", AugmentConfig(copy_paste=0))
    list(training_batches(dataset, 2, seed=1, epoch=0, start_batch=4))
    assert len(read) == 2


def test_epochs_and_seeds_differ(dataset):
    first = list(training_batches(dataset, 2, seed=1, epoch=0))
    assert not same(first, list(training_batches(dataset, 2, seed=1, epoch=1)))
    assert not same(first, list(training_batches(dataset, 2, seed=2, epoch=0)))


def test_batches_leave_the_global_random_state_alone(dataset):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(training_batches(dataset, 2, seed=1, epoch=0))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_an_epoch_shows_every_picture_once_over_all_processes(dataset, monkeypatch):
    read = []
    sample = dataset.instances.sample
    monkeypatch.setattr(dataset.instances, "sample", lambda index: read.append(index) or sample(index))
    monkeypatch.setattr(dataset, "config", AugmentConfig(copy_paste=0))
    for rank in range(2):
        assert len(list(training_batches(dataset, 1, seed=0, epoch=0, rank=rank, world_size=2))) == 5
    assert len(read) == len(set(read)) == 10


def test_two_processes_see_together_what_one_would(dataset):
    whole = list(training_batches(dataset, 4, seed=0, epoch=0))
    parts = [list(training_batches(dataset, 2, seed=0, epoch=0, rank=rank, world_size=2)) for rank in range(2)]
    for (images, _), (even, _), (odd, _) in zip(whole, *parts, strict=True):
        assert torch.equal(images[0::2], even)
        assert torch.equal(images[1::2], odd)


def test_a_batch_larger_than_the_set_is_refused(dataset):
    with pytest.raises(DataError, match="11 pictures fill no batch of 12 x 1; lower the batch size"):
        training_batches(dataset, 12, seed=0, epoch=0)


def test_a_batch_without_any_instance_is_a_batch(dataset, monkeypatch):
    monkeypatch.setattr(dataset, "config", AugmentConfig(min_area=SIZE * SIZE + 1))
    images, targets = next(training_batches(dataset, 3, seed=0, epoch=0))
    assert len(images) == len(targets) == 3
    assert all(target["masks"].shape == (0, SIZE // 4, SIZE // 4) for target in targets)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_sentence_it_was(dataset, monkeypatch, workers):
    def unreadable(index):
        raise DataError("instances.json: the mask of annotation 7 is unreadable")

    monkeypatch.setattr(dataset.instances, "sample", unreadable)
    with pytest.raises(DataError, match=r"^instances\.json: the mask of annotation 7 is unreadable$"):
        next(training_batches(dataset, 2, seed=0, epoch=0, workers=workers))


def test_mask_targets_are_bilinear_without_antialiasing():
    masks = np.random.default_rng(0).integers(0, 2, (5, 64, 64), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(masks)[None].float(), scale_factor=0.25, mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_array_equal(mask_targets(masks), expected.numpy())
    assert mask_targets(masks[:0]).shape == (0, 16, 16)
    assert mask_targets(masks).dtype == np.float32


def test_companions_of_the_same_class_share_a_class(dataset, monkeypatch):
    whole = dataset.instances
    rng = np.random.default_rng(0)
    alike = TrainingSet(whole, SIZE, AugmentConfig(same_class=1.0), dataset.pad_colour)
    anyone = TrainingSet(whole, SIZE, AugmentConfig(same_class=0.0), dataset.pad_colour)
    right = {i for i in range(COUNT) if 1 in whole.labels(i)}
    monkeypatch.setattr(whole, "labels", lambda _: {1})
    assert {alike._companion(0, alike.config, rng) for _ in range(100)} == right
    assert len({anyone._companion(0, anyone.config, rng) for _ in range(100)}) == COUNT


def test_pictures_sized_by_their_short_side_are_padded_to_the_largest_of_the_batch(dataset):
    config = ShortSideConfig(short_sides=(70, 90), long_side=130)
    sized = TrainingSet(dataset.instances, SIZE, config, dataset.pad_colour)
    for images, targets in training_batches(sized, 3, seed=0, epoch=0):
        height, width = images.shape[1:3]
        assert height % 32 == width % 32 == 0
        extents = []
        for image, target in zip(images, targets, strict=True):
            outside = (image != torch.tensor(dataset.pad_colour, dtype=torch.uint8)).any(-1)
            extents.append([int(outside.any(axis).sum()) for axis in (1, 0)])
            assert target["masks"].shape[1:] == (height // 4, width // 4)
            assert target["masks"][:, -(-extents[-1][0] // 4) :].sum() == 0
            assert min(extents[-1]) in config.short_sides or max(extents[-1]) == config.long_side
        assert [-(-max(e[axis] for e in extents) // 32) * 32 for axis in (0, 1)] == [height, width]
