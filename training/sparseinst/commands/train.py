"""`sparseinst train`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst.commands.arguments import add_datasets, device, listed, positive, read_datasets

if TYPE_CHECKING:
    from rich.console import Console

    from sparseinst.data import AugmentConfig, CocoInstances
    from sparseinst.distributed import World
    from sparseinst.recipes import Recipe
    from sparseinst.train import Trainer

DESCRIPTION = """Train a recipe on a COCO dataset. On several GPUs, one process for each:
  torchrun --nproc-per-node 8 -m sparseinst train ...

A recipe names its learning rate for its total batch: --batch-size x --accumulate x processes. Where --accumulate is
not given, it is chosen to keep that total. Where the total changes, the learning rate changes in proportion, unless
--lr is given. See docs/training.md.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    raw = argparse.RawDescriptionHelpFormatter
    train = commands.add_parser(
        "train", help="train a recipe on a COCO dataset", description=DESCRIPTION, formatter_class=raw
    )
    train.add_argument("--recipe", required=True, help="compact, or a published one (docs/variants.md)")
    add_datasets(train)
    train.add_argument("--out", type=Path, required=True, help="folder for weights, log and state")
    train.add_argument("--resume", action="store_true", help="go on from the state in --out")
    start = train.add_mutually_exclusive_group()
    start.add_argument("--backbone-weights", type=Path, help="ImageNet state dict of the backbone (torchvision, timm)")
    start.add_argument("--weights", type=Path, help="fine-tune from these weights of ours")
    train.add_argument("--name", help="what the model is called (default: the recipe)")
    train.add_argument("--epochs", type=positive(int), help="length of the run; the schedule stretches with it")
    train.add_argument("--batch-size", type=positive(int), help="pictures for one forward pass of one process")
    train.add_argument(
        "--accumulate",
        type=positive(int),
        help="forward passes for one optimiser step (default: as many as keep the recipe's total batch)",
    )
    train.add_argument(
        "--lr",
        type=positive(float),
        help="peak learning rate (default: the recipe's, in proportion to the total batch)",
    )
    train.add_argument(
        "--freeze",
        type=listed(str),
        default=(),
        metavar="PREFIX[,PREFIX]",
        help="parameters whose names start so never learn: backbone, encoder, decoder.mask_branch, ...",
    )
    train.add_argument(
        "--multi-scale",
        type=listed(int),
        metavar="S[,S]",
        help="sides of training pictures, multiples of 32: one is drawn for each batch, in place of the recipe's",
    )
    train.add_argument("--workers", type=int, default=2, help="processes that prepare batches (default: 2)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cuda, cpu, cuda:1 (default: cuda where there is one)")
    train.add_argument(
        "--precision",
        choices=("fp32", "amp"),
        help="amp: 16 bits where it is safe, bf16 where the device has it (default: amp on a GPU, fp32 elsewhere)",
    )
    train.add_argument(
        "--save-every", type=positive(int), default=200, help="steps between two writes of the state (default: 200)"
    )
    train.add_argument(
        "--evaluate-every", type=positive(int), default=1, help="epochs between two evaluations (default: 1)"
    )
    train.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train to the end of the schedule, or go on with --resume; in each of the processes that torchrun started."""
    from rich.console import Console

    from sparseinst.distributed import joined

    with joined(arguments.device) as world:
        console = Console(quiet=not world.first)
        trainer, train, val = world.together(lambda: _prepare(arguments, world, console))
        best = trainer.fit(train, val, console)
        console.print(f"best val mask AP {best:.4f}: {arguments.out / 'best.safetensors'}")
    return 0


def _prepare(
    arguments: argparse.Namespace, world: World, console: Console
) -> tuple[Trainer, CocoInstances, CocoInstances]:
    """The run at the place where it starts or goes on, and its pictures; nothing is written yet."""
    import torch

    from sparseinst.checkpoint import initialise_from, parameter_count
    from sparseinst.distributed import device_of
    from sparseinst.freezing import freeze_always, learning_count
    from sparseinst.network import SparseInst
    from sparseinst.network.backbone import load_imagenet_weights
    from sparseinst.optimise import divided
    from sparseinst.recipes import get_recipe
    from sparseinst.train import RunConfig, Trainer, TrainingError

    if (arguments.out / "state.pt").exists() and not arguments.resume:
        raise TrainingError(f"{arguments.out} holds a run already; add --resume to go on, or choose another --out")
    recipe = get_recipe(arguments.recipe)
    schedule, division = divided(
        recipe.schedule.stretched(arguments.epochs) if arguments.epochs else recipe.schedule,
        batch_size=arguments.batch_size,
        accumulate=arguments.accumulate,
        lr=arguments.lr,
        processes=world.size,
    )
    recipe = replace(recipe, schedule=schedule)
    if arguments.multi_scale:
        recipe = replace(recipe, augment=_multi_scale(recipe, arguments.multi_scale))

    train, val = read_datasets(arguments)
    recipe, contract = recipe.for_classes(train.classes, train.category_ids, arguments.name or recipe.name)
    torch.manual_seed(arguments.seed)
    model = SparseInst(recipe.network)
    if arguments.backbone_weights:
        load_imagenet_weights(model.backbone, arguments.backbone_weights)
    if arguments.weights:
        left = initialise_from(model, arguments.weights)
        afresh = ", ".join(left) or "nothing"
        console.print(f"fine-tuning from {arguments.weights}; starting afresh: {afresh}", markup=False, soft_wrap=True)
    recipe = replace(recipe, schedule=freeze_always(recipe.schedule, model, arguments.freeze))
    config = RunConfig(
        out=arguments.out,
        annotations=arguments.val_annotations,
        device=device(device_of(arguments.device, world)),
        workers=arguments.workers,
        seed=arguments.seed,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
        precision=arguments.precision,
    )
    trainer = Trainer(recipe, contract, model, config, world)
    if arguments.resume:
        trainer.resume()
    learning, millions = learning_count(model, recipe.schedule) / 1e6, parameter_count(model) / 1e6
    console.print(
        f"{recipe.name}: {learning:.2f} of {millions:.2f} M parameters learn, {len(train)} pictures, "
        f"{train.instance_count} instances"
    )
    console.print(division, soft_wrap=True)
    return trainer, train, val


def _multi_scale(recipe: Recipe, sides: tuple[int, ...]) -> AugmentConfig:
    from sparseinst.data import AugmentConfig

    if not isinstance(recipe.augment, AugmentConfig):
        raise ValueError(
            f"--multi-scale is for recipes that train on squares; {recipe.name} draws a short side for each picture "
            f"by itself, of {recipe.augment.short_sides} px"
        )
    return replace(recipe.augment, sides=sides)
