"""Recipes: everything that a training run is, by name. A recipe is a function; its docstring tells how to run it.

COMMAND for any of them:
    sparseinst train --recipe NAME --annotations train.json --images train/ \
        --val-annotations val.json --val-images val/ --out runs/NAME
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from sparseinst.data import AugmentConfig, ShortSideConfig
from sparseinst.losses import LossConfig
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst.variants import VARIANTS, get_variant
from sparseinst_runtime import Contract


@dataclass(frozen=True)
class Phase:
    """A part of the training with one input size.

    Attributes:
        epochs: its length.
        size: side of the training pictures in pixels, a multiple of 32; small first is fast, the last phase sharpens.
        frozen: parameters whose name starts with one of these do not learn.
    """

    epochs: int
    size: int
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """Optimiser and learning rate.

    Attributes:
        phases: one after the other; the learning rate runs over all of them.
        batch_size: pictures for one forward pass.
        accumulate: forward passes for one step of the optimiser.
        lr: peak learning rate of AdamW.
        backbone_lr_scale: the backbone learns at this fraction of `lr`.
        weight_decay: AdamW's, on everything but norms.
        warmup: optimiser steps of linear warm-up.
        decay: `cosine` to 1 % of `lr`, or `steps`: times 0.1 at each milestone.
        milestones: fractions of the whole run, for `steps`.
        clip_norm: gradients are scaled down to this L2 norm; None leaves them.
        ema: decay of the moving average of the weights that is evaluated and kept; 0 switches it off.
    """

    phases: tuple[Phase, ...]
    batch_size: int = 8
    accumulate: int = 1
    lr: float = 5e-5
    backbone_lr_scale: float = 1.0
    weight_decay: float = 0.05
    warmup: int = 1000
    decay: Literal["cosine", "steps"] = "steps"
    milestones: tuple[float, ...] = (0.78, 0.93)
    clip_norm: float | None = None
    ema: float = 0.0

    @property
    def epochs(self) -> int:
        """Length of the whole run."""
        return sum(phase.epochs for phase in self.phases)

    def phase_at(self, epoch: int) -> Phase:
        """The phase that `epoch` (from 0) belongs to."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise IndexError(f"epoch is beyond the schedule's {self.epochs}")

    def stretched(self, epochs: int) -> Schedule:
        """The same schedule over another number of epochs, at least 1; phases keep their shares, and the last remains.

        Raises:
            ValueError: fewer than one epoch.
        """
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}; wanted at least 1")
        before = [sum(phase.epochs for phase in self.phases[:i]) for i in range(len(self.phases))]
        starts = [min(round(count * epochs / self.epochs), epochs - 1) for count in before]
        lengths = [end - start for start, end in zip(starts, [*starts[1:], epochs], strict=True)]
        phases = tuple(replace(p, epochs=n) for p, n in zip(self.phases, lengths, strict=True) if n > 0)
        return replace(self, phases=phases)


@dataclass(frozen=True)
class Recipe:
    """A named training run.

    Attributes:
        network: architecture; the dataset decides the number of classes.
        input_size: side of the square input that is evaluated and served.
        score_threshold: what the server uses when a request does not say.
    """

    name: str
    network: NetworkConfig
    input_size: int
    schedule: Schedule
    augment: AugmentConfig | ShortSideConfig = field(default_factory=AugmentConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    score_threshold: float = 0.3

    def for_classes(
        self, classes: tuple[str, ...], category_ids: tuple[int, ...], name: str
    ) -> tuple[Recipe, Contract]:
        """The recipe with a network for these classes, and the contract of a model of that name."""
        network = replace(self.network, decoder=replace(self.network.decoder, classes=len(classes)))
        contract = Contract(
            classes=classes,
            category_ids=category_ids,
            input_size=(self.input_size, self.input_size),
            max_instances=network.decoder.instances,
            score_threshold=self.score_threshold,
            name=name,
        )
        return replace(self, network=network), contract


def compact() -> Recipe:
    """MobileNetV2, 96 channels, two convolutions a branch, 50 instances, 320 px: real time on CPU cores.

    COMMAND as above with `--backbone-weights mobilenet_v2.pt` (torchvision's ImageNet weights). 700 pictures take about
    an hour and a half on two CPU cores; see the bundled model's card for what that reached.
    """
    early = tuple(f"backbone.features.{i}." for i in range(4))
    return Recipe(
        name="compact",
        network=NetworkConfig(
            backbone="mobilenet_v2",
            encoder=EncoderConfig(channels=96),
            decoder=DecoderConfig(instances=50, groups=4, channels=96, depth=2, kernel_dim=64),
        ),
        input_size=320,
        schedule=Schedule(
            phases=(Phase(4, 192, ("backbone.",)), Phase(52, 224, early), Phase(16, 320, early)),
            batch_size=8,
            lr=6e-4,
            backbone_lr_scale=0.25,
            warmup=100,
            decay="cosine",
            clip_norm=10.0,
            ema=0.998,
        ),
        augment=AugmentConfig(scale=(0.7, 1.4), copy_paste=0.8, max_pasted=4, mosaic=0.35, same_class=0.6),
    )


def compact_refine() -> Recipe:
    """A second, short cycle of `compact` at full size, with a fresh learning rate.

    COMMAND as above with `--weights runs/compact/best.safetensors`. It took the bundled model from 0.555 to 0.557 mask
    AP on its validation pictures, and from 0.470 to 0.525 on `assets/scenes`.
    """
    recipe = compact()
    last = recipe.schedule.phases[-1]
    schedule = replace(recipe.schedule, phases=(replace(last, epochs=9),), lr=4e-4, warmup=60)
    return replace(recipe, name="compact_refine", schedule=schedule)


def compact_ablation() -> Recipe:
    """`compact` in a few minutes: six epochs at 192 px with a frozen backbone, for ablations on CPU cores.

    COMMAND: `sparseinst ablation --recipe compact_ablation` with the pictures as above. Its figures tell what a switch
    does in a short training of a small network, not what it does on COCO; see docs/ablations.md.
    """
    recipe = compact()
    phases = (Phase(6, 192, ("backbone.",)),)
    schedule = replace(recipe.schedule, phases=phases, warmup=50, ema=0.99)
    return replace(recipe, name="compact_ablation", schedule=schedule, augment=AugmentConfig())


def published_recipe(name: str) -> Recipe:
    """A published variant, trained as published; see `variants.VARIANTS` for what each reached.

    COMMAND as above, with `--backbone-weights` (timm's ImageNet weights of the variant's backbone), on COCO train2017
    and val2017. Reproduced here: no (needs 8 GPUs).

    270,000 steps of 64 pictures are 147 epochs of the 117,266 pictures of train2017 that show an instance. The steps
    are made of 8 passes of 8 pictures; on 8 GPUs the published code makes them of one pass each.
    """
    variant = get_variant(name)
    return Recipe(
        name=name,
        network=variant.network,
        input_size=variant.input_size,
        schedule=Schedule(
            phases=(Phase(147, variant.input_size),), batch_size=8, accumulate=8, milestones=(7 / 9, 25 / 27)
        ),
        augment=ShortSideConfig(crop=0.5 if variant.crop else 0.0),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "compact": compact,
    "compact_refine": compact_refine,
    "compact_ablation": compact_ablation,
    **{name: partial(published_recipe, name) for name in VARIANTS},
}


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; wanted one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def build_model(variant: str) -> SparseInst:
    """The network of a recipe with fresh weights; raises ValueError for a name that is no recipe."""
    return SparseInst(get_recipe(variant).network)
