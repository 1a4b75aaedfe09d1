"""`sparseinst ablation`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst.commands.arguments import add_datasets, device, positive, read_datasets

if TYPE_CHECKING:
    from rich.console import Console

    from sparseinst.recipes import Recipe

FINISHED = "ap.json"  # what was evaluated, by scoring; its presence says that the run has ended


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    ablation = commands.add_parser(
        "ablation",
        help="train and evaluate the rows of the paper's tables 2 to 7",
        description="Train and evaluate the rows of the paper's tables 2 to 7 on a COCO dataset; writes ablation.md and"
        " ablation.json into --out after each row. Finished runs are not repeated, interrupted ones are resumed; a call"
        " with other settings than those in --out is refused.",
    )
    ablation.add_argument("--tables", type=int, nargs="+", choices=range(2, 8), default=list(range(2, 8)))
    ablation.add_argument("--recipe", default="compact_ablation", help="what the rows change (default: %(default)s)")
    add_datasets(ablation)
    ablation.add_argument("--out", type=Path, required=True, help="folder for the tables, with a folder for each run")
    ablation.add_argument("--backbone-weights", type=Path, help="ImageNet state dict of the backbone")
    ablation.add_argument("--epochs", type=positive(int), help="length of each run (default: the recipe's)")
    ablation.add_argument("--seeds", type=int, nargs="+", default=[0], help="each row is run with each (default: 0)")
    ablation.add_argument("--workers", type=int, default=2, help="processes that prepare batches (default: 2)")
    ablation.add_argument("--device", help="cuda, cpu, cuda:1 (default: cuda where there is one)")
    ablation.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the tables one after the other.

    Raises:
        SettingsError: --out holds runs of another recipe, length, dataset or backbone.
        DataError: annotations or pictures cannot be read.
        ValueError: a recipe or device that does not exist.
        OSError: a file cannot be read or written.
    """
    from rich.console import Console

    from sparseinst.ablation import TABLES, Outcome, markdown, run_table, to_json
    from sparseinst.ablation_settings import hold_settings
    from sparseinst.recipes import get_recipe
    from sparseinst_runtime.files import atomic_write

    console = Console()
    recipe = get_recipe(arguments.recipe)
    if arguments.epochs:
        recipe = replace(recipe, schedule=recipe.schedule.stretched(arguments.epochs))
    arguments.device = device(arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    hold_settings(arguments.out, _settings(arguments, recipe))
    runner = Runner(arguments, console)
    outcomes: dict[int, list[Outcome]] = {}
    for number in arguments.tables:
        console.rule(f"table {number}: {TABLES[number].title}")
        outcomes[number] = []
        for outcome in run_table(TABLES[number], recipe, arguments.out, arguments.seeds, runner):
            outcomes[number].append(outcome)
            tables = "\n".join(markdown(n, rows) for n, rows in outcomes.items())
            atomic_write(arguments.out / "ablation.md", runner.heading(recipe) + "\n" + tables)
            atomic_write(arguments.out / "ablation.json", to_json(outcomes))
            console.print(f"{outcome.label}: AP {', '.join(f'{value:.4f}' for value in outcome.ap)}")
    console.print(f"tables in {arguments.out / 'ablation.md'}")
    return 0


def _settings(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """All that decides what a row comes to, besides the seed, which its folder is named after."""
    from sparseinst.ablation_settings import checksum, dataset_settings

    annotations, images = dataset_settings(arguments.annotations, arguments.images)
    val_annotations, val_images = dataset_settings(arguments.val_annotations, arguments.val_images)
    return {
        "--annotations": annotations,
        "--images": images,
        "--val-annotations": val_annotations,
        "--val-images": val_images,
        "--class-agnostic": arguments.class_agnostic,
        "--backbone-weights": checksum(arguments.backbone_weights) if arguments.backbone_weights else None,
        "recipe": asdict(recipe),
    }


class Runner:
    """Trains and evaluates one row after the other on the same pictures, which stay in memory."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self.arguments, self.console = arguments, console
        self.train, self.val = read_datasets(arguments)

    def heading(self, recipe: Recipe) -> str:
        """What all rows have in common, as a paragraph."""
        schedule = recipe.schedule
        return (
            f"Recipe `{recipe.name}`, {schedule.epochs} epochs of {len(self.train)} pictures, "
            f"{schedule.batch_size * schedule.accumulate} pictures a step, input {recipe.input_size} px, "
            f"{len(self.train.classes)} classes; mask AP of the last weights on {len(self.val)} pictures; "
            f"seeds {', '.join(map(str, self.arguments.seeds))}.\n"
        )

    def __call__(self, recipe: Recipe, folder: Path, seed: int) -> dict[str, float]:
        """Train where that has not been done, evaluate where that has not been done; the figures of `APSummary`."""
        from sparseinst.checkpoint import load_model
        from sparseinst.data import evaluation_files
        from sparseinst.evaluate import evaluate, torch_engine
        from sparseinst_runtime.files import atomic_write

        scoring = "rescored" if recipe.network.decoder.rescoring else "class probability"
        figures: dict[str, dict[str, float]] = {}
        if (folder / FINISHED).exists():
            figures = json.loads((folder / FINISHED).read_text("utf-8"))
        else:
            self._fit(recipe, folder, seed)
        if scoring not in figures:
            model, contract = load_model(folder / "last.safetensors")
            decoder = replace(model.config.decoder, rescoring=recipe.network.decoder.rescoring)
            model.config = replace(model.config, decoder=decoder)
            engine = torch_engine(model, contract, self.arguments.device)
            annotations = str(self.arguments.val_annotations)
            summary, _ = evaluate(engine, contract, annotations, evaluation_files(self.val))
            figures[scoring] = summary.as_dict()
            atomic_write(folder / FINISHED, json.dumps(figures))
        return figures[scoring]

    def _fit(self, recipe: Recipe, folder: Path, seed: int) -> None:
        import torch

        from sparseinst.network import SparseInst
        from sparseinst.network.backbone import load_imagenet_weights
        from sparseinst.train import RunConfig, Trainer

        recipe, contract = recipe.for_classes(self.train.classes, self.train.category_ids, recipe.name)
        torch.manual_seed(seed)
        model = SparseInst(recipe.network)
        if self.arguments.backbone_weights:
            load_imagenet_weights(model.backbone, self.arguments.backbone_weights)
        config = RunConfig(
            out=folder,
            annotations=self.arguments.val_annotations,
            device=self.arguments.device,
            workers=self.arguments.workers,
            seed=seed,
            evaluate_every=recipe.schedule.epochs,
        )
        trainer = Trainer(recipe, contract, model, config)
        if (folder / "state.pt").exists():
            trainer.resume()
        self.console.print(f"{folder.name}: from step {trainer.position.iteration}", markup=False)
        trainer.fit(self.train, self.val, self.console)
