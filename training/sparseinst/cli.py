"""`sparseinst`: train, evaluate and predict from the shell."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparseinst.datasets.commands import add_dataset_commands

if TYPE_CHECKING:
    pass

EXAMPLES = """examples:
  sparseinst train --recipe compact --annotations train.json --images train/ \\
      --val-annotations val.json --val-images val/ --backbone-weights mobilenet_v2.pt --out runs/compact
  sparseinst train ... --resume                      goes on where a killed run stopped
  sparseinst evaluate --weights runs/compact/best.safetensors --annotations val.json --images val/
  sparseinst predict --weights runs/compact/best.safetensors picture.jpg --out predictions/
  sparseinst import-checkpoint sparse_inst_r50_giam.pth --variant r50_giam --out r50_giam.safetensors
"""


def parser() -> argparse.ArgumentParser:
    """The command line, documented."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("sparseinst", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a recipe on a COCO dataset", epilog=EXAMPLES, formatter_class=raw)
    train.add_argument("--recipe", required=True, help="compact, or a published one (docs/variants.md)")
    train.add_argument("--annotations", type=Path, required=True, help="COCO JSON of the training pictures")
    train.add_argument("--images", type=Path, required=True, help="folder of the training pictures")
    train.add_argument("--val-annotations", type=Path, required=True, help="COCO JSON to evaluate on")
    train.add_argument("--val-images", type=Path, required=True, help="folder of the pictures to evaluate on")
    train.add_argument("--out", type=Path, required=True, help="folder for weights, log and state")
    train.add_argument("--resume", action="store_true", help="go on from the state in --out")
    start = train.add_mutually_exclusive_group()
    start.add_argument("--backbone-weights", type=Path, help="ImageNet state dict of the backbone (torchvision, timm)")
    start.add_argument("--weights", type=Path, help="fine-tune from these weights of ours")
    train.add_argument("--name", help="what the model is called (default: the recipe)")
    train.add_argument("--epochs", type=_positive(int), help="length of the run; the schedule stretches with it")
    train.add_argument("--batch-size", type=_positive(int), help="pictures for one forward pass")
    train.add_argument("--accumulate", type=_positive(int), help="forward passes for one optimiser step")
    train.add_argument("--lr", type=_positive(float), help="peak learning rate")
    train.add_argument("--workers", type=int, default=2, help="processes that prepare batches (default: 2)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cuda, cpu, cuda:1 (default: cuda where there is one)")
    train.add_argument(
        "--save-every", type=_positive(int), default=200, help="steps between two writes of the state (default: 200)"
    )
    train.add_argument(
        "--evaluate-every", type=_positive(int), default=1, help="epochs between two evaluations (default: 1)"
    )
    train.add_argument("--no-cache", action="store_true", help="decode pictures each time: for data larger than memory")

    evaluate = commands.add_parser("evaluate", help="COCO mask AP of weights")
    evaluate.add_argument("--weights", type=Path, required=True)
    evaluate.add_argument("--annotations", type=Path, required=True, help="COCO JSON with the weights' categories")
    evaluate.add_argument("--images", type=Path, required=True)
    evaluate.add_argument("--out", type=Path, default=Path("results.json"), help="COCO results (default: results.json)")
    evaluate.add_argument("--device")

    predict = commands.add_parser("predict", help="segment pictures with weights")
    predict.add_argument("pictures", type=Path, nargs="+")
    predict.add_argument("--weights", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True, help="folder for one COCO results JSON for each picture")
    predict.add_argument("--score-threshold", type=float, help="drop instances at or below (default: the contract's)")
    predict.add_argument("--device")

    published = commands.add_parser("import-checkpoint", help="weights of the published code as weights of ours")
    published.add_argument("source", type=Path, help="state dict that torch saved, flat or under 'model'")
    published.add_argument("--variant", required=True, help="r50_giam, r50vd_dcn_giam_aug, ... (docs/variants.md)")
    published.add_argument("--out", type=Path, required=True, help="safetensors file to write, float32")
    published.add_argument(
        "--annotations", type=Path, help="COCO JSON with the classes of the weights (default: COCO's 80)"
    )
    published.set_defaults(run=_import_checkpoint)
    add_dataset_commands(commands)
    return top


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: int or float, above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse: "invalid positive int value: '0'"
    return number


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 with one sentence on stderr when the user can mend it."""
    arguments = parser().parse_args(argv)
    import torch  # noqa: PLC0415 (seconds to import: --help must not wait for it)

    from sparseinst.train import TrainingError  # noqa: PLC0415

    command = {"train": _train, "evaluate": _evaluate, "predict": _predict}.get(arguments.command)
    try:
        if command is None:  # these bring their own function, which tells the exit code
            return int(arguments.run(arguments))
        arguments.device = _device(arguments.device)
        command(arguments)
    except (TrainingError, ValueError, OSError) as error:  # our other errors are ValueErrors
        sys.stderr.write(f"sparseinst {arguments.command}: {error}\n")
        return 1
    except torch.OutOfMemoryError as error:
        sys.stderr.write(f"sparseinst {arguments.command}: {error}\nlower --batch-size and raise --accumulate\n")
        return 1
    except KeyboardInterrupt:
        words = "interrupted; go on with --resume" if arguments.command == "train" else "interrupted"
        sys.stderr.write(f"sparseinst {arguments.command}: {words}\n")
        return 130
    return 0


def _device(name: str | None) -> str:
    """The device to compute on, tried out; ValueError where there is none of that name."""
    import torch  # noqa: PLC0415

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}); wanted cpu or a GPU that is there") from error
    return name


def _train(arguments: argparse.Namespace) -> None:
    import torch  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from sparseinst.checkpoint import initialise_from, parameter_count  # noqa: PLC0415
    from sparseinst.data import CocoInstances, DataError  # noqa: PLC0415
    from sparseinst.network import SparseInst  # noqa: PLC0415
    from sparseinst.network.backbone import load_imagenet_weights  # noqa: PLC0415
    from sparseinst.recipes import get_recipe  # noqa: PLC0415
    from sparseinst.train import RunConfig, Trainer, TrainingError  # noqa: PLC0415
    from sparseinst_runtime import Contract  # noqa: PLC0415

    console = Console()
    if (arguments.out / "state.pt").exists() and not arguments.resume:
        raise TrainingError(f"{arguments.out} holds a run already; add --resume to go on, or choose another --out")
    recipe = get_recipe(arguments.recipe)
    schedule = recipe.schedule.stretched(arguments.epochs) if arguments.epochs else recipe.schedule
    given = {key: getattr(arguments, key) for key in ("batch_size", "accumulate", "lr") if getattr(arguments, key)}
    recipe = replace(recipe, schedule=replace(schedule, **given))

    cache = not arguments.no_cache
    train = CocoInstances(arguments.annotations, arguments.images, keep_empty=False, cache=cache)
    val = CocoInstances(arguments.val_annotations, arguments.val_images, keep_empty=True, cache=cache)
    if (train.classes, train.category_ids) != (val.classes, val.category_ids):
        raise DataError(f"training has classes {train.classes}, validation {val.classes}; wanted the same")
    if not val.instance_count:
        raise DataError(f"{arguments.val_annotations} has no instance to evaluate on; wanted at least one")
    network = replace(recipe.network, decoder=replace(recipe.network.decoder, classes=len(train.classes)))
    contract = Contract(
        classes=train.classes,
        category_ids=train.category_ids,
        input_size=recipe.input_size,
        max_instances=network.decoder.instances,
        score_threshold=recipe.score_threshold,
        name=arguments.name or recipe.name,
    )
    torch.manual_seed(arguments.seed)
    model = SparseInst(network)
    if arguments.backbone_weights:
        load_imagenet_weights(model.backbone, arguments.backbone_weights)
    if arguments.weights:
        left = initialise_from(model, arguments.weights)
        console.print(f"fine-tuning from {arguments.weights}; starting afresh: {', '.join(left) or 'nothing'}")
    config = RunConfig(
        out=arguments.out,
        annotations=arguments.val_annotations,
        device=arguments.device,
        workers=arguments.workers,
        seed=arguments.seed,
        save_every=arguments.save_every,
        evaluate_every=arguments.evaluate_every,
    )
    trainer = Trainer(recipe, contract, model, config)
    if arguments.resume:
        trainer.resume()
    millions = parameter_count(model) / 1e6
    console.print(
        f"{recipe.name}: {millions:.2f} M parameters, {len(train)} pictures, {train.instance_count} instances"
    )
    best = trainer.fit(train, val, console)
    console.print(f"best val mask AP {best:.4f}: {arguments.out / 'best.safetensors'}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from sparseinst.checkpoint import load_model  # noqa: PLC0415
    from sparseinst.evaluate import evaluate_files, torch_engine  # noqa: PLC0415

    model, contract = load_model(arguments.weights)
    engine = torch_engine(model, contract, arguments.device)
    sys.stdout.write(evaluate_files(engine, contract, arguments.annotations, arguments.images, arguments.out))


def _predict(arguments: argparse.Namespace) -> None:
    from sparseinst.predict import Predictor  # noqa: PLC0415
    from sparseinst_runtime.decode import decode  # noqa: PLC0415
    from sparseinst_runtime.files import atomic_write  # noqa: PLC0415
    from sparseinst_runtime.limits import PictureError  # noqa: PLC0415

    names = [path.stem for path in arguments.pictures]
    if len(set(names)) < len(names):
        raise ValueError(f"two pictures are called {max(names, key=names.count)}; wanted names that differ for --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(arguments.weights, device=arguments.device, score_threshold=arguments.score_threshold)
    contract = predictor.contract
    for index, path in enumerate(arguments.pictures):
        try:
            picture = decode(path.read_bytes())
        except PictureError as error:
            raise ValueError(f"{path}: {error}") from error
        instances = predictor(picture)
        out = atomic_write(
            arguments.out / f"{path.stem}.json", json.dumps(instances.to_coco(index, contract.category_ids))
        )
        found = ", ".join(
            f"{contract.classes[i]} {s:.2f}" for i, s in zip(instances.labels, instances.scores, strict=True)
        )
        sys.stdout.write(f"{path}: {found or 'nothing'} -> {out}\n")


def _import_checkpoint(arguments: argparse.Namespace) -> int:
    from sparseinst.checkpoint import parameter_count, save_weights  # noqa: PLC0415
    from sparseinst.published import import_checkpoint  # noqa: PLC0415

    model, contract = import_checkpoint(arguments.source, arguments.variant, arguments.annotations)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    out = save_weights(arguments.out, model, contract, half=False)
    tensors, millions = len(model.state_dict()), parameter_count(model) / 1e6
    sys.stdout.write(
        f"{out}: {contract.name}, all {tensors} tensors, {millions:.2f} M parameters, {len(contract.classes)} classes\n"
    )
    return 0
