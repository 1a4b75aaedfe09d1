"""Pictures and instances for training: COCO JSON, augmentation, and batches that resume exactly."""

from __future__ import annotations

from sparseinst.data.coco import CocoInstances, DataError, Sample
from sparseinst.data.loader import (
    Batch,
    Target,
    TrainingSet,
    batches_per_epoch,
    evaluation_files,
    evaluation_pictures,
    mask_targets,
    training_batches,
)
from sparseinst.data.short_side import ShortSideConfig
from sparseinst.data.transforms import AugmentConfig, augment

__all__ = [
    "AugmentConfig",
    "Batch",
    "CocoInstances",
    "DataError",
    "Sample",
    "ShortSideConfig",
    "Target",
    "TrainingSet",
    "augment",
    "batches_per_epoch",
    "evaluation_files",
    "evaluation_pictures",
    "mask_targets",
    "training_batches",
]
