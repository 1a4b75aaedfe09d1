"""`sparseinst benchmark`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst.commands.arguments import device, positive

if TYPE_CHECKING:
    import torch

    from sparseinst.benchmark import Speed
    from sparseinst.benchmark_training import TrainingSpeed

SIZES = ((320, 320), (416, 416), (512, 512), (608, 608), (640, 640))
INSTANCES, INSTANCES_TRAINING = 20, 7  # a picture of COCO has 7.3


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    benchmark = commands.add_parser("benchmark", help="speed of a network, or of its training, part by part")
    network = benchmark.add_mutually_exclusive_group(required=True)
    network.add_argument("--variant", help="a recipe's network with fresh weights (docs/variants.md)")
    network.add_argument("--weights", type=Path, help="a network with these weights of ours")
    benchmark.add_argument(
        "--sizes", type=size, nargs="+", help="of the input: 640, or 480x640 as HxW (default: 320 416 512 608 640)"
    )
    benchmark.add_argument("--batch-size", type=positive(int), help="default: 1; with --training 2")
    benchmark.add_argument("--device", help="cuda, cpu, cuda:1 (default: cuda where there is one)")
    benchmark.add_argument("--precision", choices=("fp32", "amp"), help="amp: fp16 on a GPU, bf16 on a CPU")
    benchmark.add_argument("--repeats", type=positive(int), default=10, help="repetitions that count (default: 10)")
    benchmark.add_argument("--warmup", type=positive(int), default=2, help="repetitions before them (default: 2)")
    benchmark.add_argument(
        "--instances",
        type=positive(int),
        help=f"drawn in a picture (default: {INSTANCES}; with --training {INSTANCES_TRAINING})",
    )
    benchmark.add_argument(
        "--original", type=size, default=(720, 1280), help="size of the pictures that masks are for (default: 720x1280)"
    )
    benchmark.add_argument("--picture", type=Path, help="segment this one instead, with --weights")
    benchmark.add_argument("--json", type=Path, help="write the figures here as well")
    benchmark.add_argument("--training", action="store_true", help="measure a step of the training, with --variant")
    benchmark.add_argument("--annotations", type=Path, help="COCO JSON, to train on real pictures")
    benchmark.add_argument("--images", type=Path, help="folder of its pictures")
    benchmark.add_argument("--workers", type=int, default=0, help="processes that prepare batches (default: 0)")
    benchmark.set_defaults(run=run)


def size(text: str) -> tuple[int, int]:
    """A type for argparse: `640` or `480x640`, height by width."""
    height, _, width = text.partition("x")
    side = positive(int)
    return int(side(height)), int(side(width or height))


def run(arguments: argparse.Namespace) -> int:
    """Measure; prints a table, and writes JSON where asked to."""
    import torch

    from sparseinst_runtime.files import atomic_write

    _check(arguments)
    where = torch.device(device(arguments.device))
    text, figures = (_training if arguments.training else _inference)(arguments, where)
    sys.stdout.write(text)
    if arguments.json:
        atomic_write(arguments.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """ValueError for arguments that do not go together."""
    if arguments.picture and not arguments.weights:
        raise ValueError("--picture needs --weights: fresh weights find nothing in it")
    if arguments.training and arguments.weights:
        raise ValueError("--training measures a recipe; wanted --variant instead of --weights")
    if arguments.training and arguments.precision:
        raise ValueError("--training has a precision of its own (16 bits on a GPU, 32 on a CPU); leave --precision out")
    if bool(arguments.annotations) != bool(arguments.images) or (arguments.images and not arguments.training):
        raise ValueError("--annotations and --images go together, and with --training only")


def _inference(arguments: argparse.Namespace, where: torch.device) -> tuple[str, dict[str, Any]]:
    from sparseinst.benchmark import Setting, measure
    from sparseinst.checkpoint import load_model
    from sparseinst.network import SparseInst
    from sparseinst.recipes import get_recipe
    from sparseinst.stopwatch import machine
    from sparseinst_runtime.decode import decode

    if arguments.weights:
        model, contract = load_model(arguments.weights)
    else:
        network = get_recipe(arguments.variant).network
        model, contract = SparseInst(network), _contract(network.decoder.classes)
    picture = decode(arguments.picture.read_bytes()) if arguments.picture else None
    setting = Setting(
        batch_size=arguments.batch_size or 1,
        precision=arguments.precision or "fp32",
        repeats=arguments.repeats,
        warmup=arguments.warmup,
        instances=arguments.instances or INSTANCES,
        original=arguments.original,
    )
    sizes = arguments.sizes or SIZES
    with _progress(len(sizes) * (setting.warmup + setting.repeats)) as tick:
        rows = [measure(model, contract, s, setting, device=where, picture=picture, tick=tick) for s in sizes]
    about = machine(where)
    shown = "those found in the picture" if arguments.picture else "drawn ellipses, the network sees random pixels"
    kept = ", ".join(str(n) for n in sorted({row.instances for row in rows}))
    notes = [
        f"{arguments.weights or arguments.variant}, batch {setting.batch_size}, {setting.precision}, channels_last, "
        f"medians of {setting.repeats} after {setting.warmup}, milliseconds for a batch; {_words(about)}.",
        f"scoring: with the copy to the host. masks: runs and boxes on the CPU at {_by(rows[0].original)}, for {kept} "
        f"instances a picture ({shown}).",
        "total: without loading, resizing and normalising, as published.",
    ]
    figures = {
        "machine": about,
        "setting": asdict(setting),
        "rows": [asdict(row) | {"total": row.total, "pictures_per_second": row.pictures_per_second} for row in rows],
    }
    return _inference_table(rows, notes), figures


def _inference_table(rows: list[Speed], notes: list[str]) -> str:
    from sparseinst.benchmark import COLUMNS

    head = ("size", *COLUMNS, "total", "pictures/s", "GMACs", "M parameters")
    lines = [
        (
            _by((row.height, row.width)),
            *(f"{row.milliseconds[part]:.1f}" for part in COLUMNS),
            f"{row.total:.1f}",
            f"{row.pictures_per_second:.2f}",
            f"{sum(row.multiply_adds.values()) / 1e9:.1f}",
            f"{sum(row.parameters.values()) / 1e6:.2f}",
        )
        for row in rows
    ]
    return _table(head, lines, notes)


def _training(arguments: argparse.Namespace, where: torch.device) -> tuple[str, dict[str, Any]]:
    from sparseinst.benchmark_training import dataset_batches, drawn_batches, measure_training
    from sparseinst.data import CocoInstances
    from sparseinst.recipes import get_recipe
    from sparseinst.stopwatch import machine

    recipe = get_recipe(arguments.variant)
    recipe = replace(recipe, schedule=replace(recipe.schedule, batch_size=arguments.batch_size or 2))
    classes, data = recipe.network.decoder.classes, None
    if arguments.annotations:
        data = CocoInstances(arguments.annotations, arguments.images, keep_empty=False)
        classes = len(data.classes)
        decoder = replace(recipe.network.decoder, classes=classes)
        recipe = replace(recipe, network=replace(recipe.network, decoder=decoder))
    contract = _contract(classes)
    # Ascending, because a process's high-water mark of memory never falls.
    sizes = sorted(arguments.sizes or [(640, 640)])
    instances = arguments.instances or INSTANCES_TRAINING
    rows = []
    with _progress(len(sizes) * (arguments.warmup + arguments.repeats)) as tick:
        for height, width in sizes:
            if data is not None and height != width:
                raise ValueError(f"--sizes {height}x{width}: with --annotations the pictures are squares")
            batches = (
                drawn_batches((height, width), recipe.schedule.batch_size, instances, classes)
                if data is None
                else dataset_batches(recipe, data, height, contract.pad_colour, arguments.workers)
            )
            options = {"device": str(where), "repeats": arguments.repeats, "warmup": arguments.warmup, "tick": tick}
            rows.append(measure_training(recipe, contract, batches, **options))
    about = machine(where)
    shown = f"{instances} drawn discs in each" if data is None else f"of {arguments.annotations}"
    memory = "of tensors on the GPU" if where.type == "cuda" else "of the process so far"
    notes = [
        f"{recipe.name}, batch {recipe.schedule.batch_size}, one batch a step, fresh weights, pictures {shown}; "
        f"medians of {arguments.repeats} steps after {arguments.warmup}, milliseconds; {_words(about)}.",
        "Second line: milliseconds of processor time, all threads. backward: with clipping; optimiser: with the moving "
        f"average. Peak memory: {memory}.",
    ]
    figures = {
        "machine": about,
        "rows": [asdict(row) | {"total": row.total, "pictures_per_second": row.pictures_per_second} for row in rows],
    }
    return _training_table(rows, notes), figures


def _training_table(rows: list[TrainingSpeed], notes: list[str]) -> str:
    from sparseinst.benchmark_training import COLUMNS

    lines = []
    for row in rows:
        wall, processor = row.milliseconds, row.processor
        first = (_by((row.height, row.width)), *(f"{wall[part]:.1f}" for part in COLUMNS))
        lines.append((*first, f"{row.total:.1f}", f"{row.pictures_per_second:.2f}", f"{row.peak_memory / 2**30:.2f}"))
        second = ("processor", *(f"{processor[part]:.1f}" for part in COLUMNS))
        lines.append((*second, f"{sum(processor.values()):.1f}", "", ""))
    return _table(("size", *COLUMNS, "step", "pictures/s", "peak GiB"), lines, notes)


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]], notes: list[str]) -> str:
    """Markdown, so that it can be quoted, its columns lined up to be read in a terminal too."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *lines, strict=True)]
    rows = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, *lines)
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:], "", *notes]) + "\n"


def _contract(classes: int) -> Any:
    """Pixel statistics and thresholds as every recipe has them."""
    from sparseinst_runtime import Contract

    return Contract(classes=tuple(f"class {i}" for i in range(classes)), category_ids=tuple(range(1, classes + 1)))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where stderr is a terminal; gives what moves it by one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda: bar.advance(task)


def _by(pixels: tuple[int, int]) -> str:
    return f"{pixels[0]}x{pixels[1]}"


def _words(about: dict[str, Any]) -> str:
    """The machine in a few words."""
    gpu = (
        f"{about['gpu']}, CUDA {about['cuda']}, TF32 convolutions {'on' if about['tf32_convolutions'] else 'off'}, "
        if "gpu" in about
        else ""
    )
    return f"{gpu}{about['processor']}, {about['threads']} threads on {about['cores']} cores, torch {about['torch']}"
