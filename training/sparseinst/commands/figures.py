"""`sparseinst figures`: pictures of what a network sees and finds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparseinst.commands.arguments import device, positive

if TYPE_CHECKING:
    from sparseinst.figures.drawing import Picture

_T = TypeVar("_T")


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the three figures; each carries its function as `run`, which returns the exit code."""
    figures = commands.add_parser("figures", help="draw what a network sees and finds")
    kinds = figures.add_subparsers(dest="figure", required=True)

    activations = kinds.add_parser(
        "activations",
        help="instance activation maps above their masks",
        description="For the best instances of a picture: where the network gathered its features, above the mask.",
    )
    activations.add_argument("picture", type=Path)
    activations.add_argument("--instances", type=positive(int), default=4, help="at most this many (default: 4)")
    activations.add_argument("--groups", action="store_true", help="each group of maps in place of their sum")
    _shared(activations, tile=360)
    activations.set_defaults(run=run_activations)

    grid = kinds.add_parser(
        "grid",
        help="results over many pictures",
        description="Pictures with masks, classes and scores; with annotations, the ground truth beside them. There a "
        "prediction has the colour of the instance it covers (IoU of at least 0.5), and one that covers none is grey.",
    )
    grid.add_argument("pictures", type=Path, nargs="*", help="with --annotations, none means all of them")
    grid.add_argument("--columns", type=positive(int), help="pictures in a row (default: 4, with --annotations 2)")
    grid.add_argument("--annotations", type=Path, help="COCO JSON with the ground truth")
    grid.add_argument("--images", type=Path, help="folder of its pictures")
    _shared(grid, tile=320)
    grid.set_defaults(run=run_grid)

    average = kinds.add_parser(
        "average-activations",
        help="where each query looks by habit",
        description="The average activation map of each query over a dataset, those that found most first.",
    )
    average.add_argument("--annotations", type=Path, required=True, help="COCO JSON; only its pictures are used")
    average.add_argument("--images", type=Path, required=True, help="folder of its pictures")
    average.add_argument("--columns", type=positive(int), default=10, help="maps in a row (default: 10)")
    average.add_argument("--json", type=Path, help="write what each query found and where it looks here too")
    average.add_argument("--npz", type=Path, help="write the maps themselves here too")
    _shared(average, tile=112)
    average.set_defaults(run=run_average)


def _shared(command: argparse.ArgumentParser, tile: int) -> None:
    command.add_argument("--weights", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True, help="picture to write: PNG, JPEG or WEBP")
    command.add_argument("--score-threshold", type=float, help="drop instances at or below (default: the contract's)")
    command.add_argument("--tile", type=positive(int), default=tile, help=f"size of a tile in pixels (default: {tile})")
    command.add_argument("--device")


def run_activations(arguments: argparse.Namespace) -> int:
    """Draw activation maps and masks of one picture; 0.

    Raises:
        CheckpointError: see `load_model`.
        FigureError: the picture cannot be read, nothing is found in it, or the network has no activation maps.
        OSError: the figure cannot be written.
    """
    from sparseinst.checkpoint import load_model
    from sparseinst.figures.activations import observer
    from sparseinst.figures.instances import activation_figure
    from sparseinst.figures.scenes import read_picture

    _check(arguments.out)
    model, contract = load_model(arguments.weights)
    observe = observer(model, contract, device(arguments.device), arguments.score_threshold)
    picture = read_picture(arguments.picture)
    observation = observe(picture)
    figure = activation_figure(
        picture,
        observation,
        contract.classes,
        instances=arguments.instances,
        groups=arguments.groups,
        tile=arguments.tile,
    )
    return _write(figure, arguments.out)


def run_grid(arguments: argparse.Namespace) -> int:
    """Draw the results of several pictures; 0.

    Raises:
        CheckpointError: see `load_model`.
        DataError: annotations or pictures that cannot be read.
        FigureError: no picture, too many, or one that cannot be drawn.
        OSError: the figure cannot be written.
    """
    from sparseinst.figures.grid import results_grid
    from sparseinst.figures.scenes import Truth, read_scenes
    from sparseinst.predict import Predictor

    _check(arguments.out)
    if (arguments.annotations is None) != (arguments.images is None):
        raise ValueError("got one of --annotations and --images; wanted both, or none")
    truth = Truth(arguments.annotations, arguments.images) if arguments.annotations else None
    predictor = Predictor(arguments.weights, device=device(arguments.device), score_threshold=arguments.score_threshold)
    scenes = read_scenes(predictor, arguments.pictures, truth, _bar("segmenting"))
    columns = arguments.columns or (2 if truth else 4)
    return _write(results_grid(scenes, columns=columns, tile=arguments.tile), arguments.out)


def run_average(arguments: argparse.Namespace) -> int:
    """Average activation maps over a dataset, draw them and write the numbers; 0.

    Raises:
        CheckpointError: see `load_model`.
        FigureError: a picture cannot be read, or the network has no activation maps.
        ValueError: annotations that are not COCO's instances JSON, or a picture is missing.
        OSError: a file cannot be written.
    """
    from sparseinst.checkpoint import load_model
    from sparseinst.figures.activations import observer
    from sparseinst.figures.average import average, average_figure
    from sparseinst.figures.scenes import read_picture
    from sparseinst_runtime.coco import picture_files
    from sparseinst_runtime.files import atomic_write

    _check(arguments.out, arguments.json, arguments.npz)
    model, contract = load_model(arguments.weights)
    observe = observer(model, contract, device(arguments.device), arguments.score_threshold)
    files = [path for _, path in picture_files(arguments.annotations, arguments.images)]
    pictures = (read_picture(path) for path in _bar("looking")(files))
    averages = average(observe, pictures, len(contract.classes))
    if arguments.json:
        atomic_write(arguments.json, averages.to_json(contract.classes))
    if arguments.npz:
        atomic_write(arguments.npz, averages.to_npz())
    figure = average_figure(averages, contract.classes, columns=arguments.columns, tile=arguments.tile)
    return _write(figure, arguments.out)


def _check(out: Path, *numbers: Path | None) -> None:
    """Before minutes of work, not after."""
    from sparseinst.figures.drawing import FORMATS

    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out is {out}; wanted a name that ends in {', '.join(FORMATS)}")
    for path in (out, *numbers):
        if path and not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: {path.parent} is no folder; make it first")


def _write(figure: Picture, out: Path) -> int:
    from sparseinst.figures.drawing import encode
    from sparseinst_runtime.files import atomic_write

    atomic_write(out, encode(figure, out.suffix))
    sys.stdout.write(f"{out}: {figure.shape[1]} x {figure.shape[0]} pixels\n")
    return 0


def _bar(words: str) -> Callable[[list[_T]], Iterable[_T]]:
    """Shows progress on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)

    def tracked(items: list[_T]) -> Iterable[_T]:
        return track(items, words, console=console, transient=True, disable=not console.is_terminal)

    return tracked
