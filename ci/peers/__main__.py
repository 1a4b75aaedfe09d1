"""Compare what is served with what else segments instances; see the package.

    ci/bench_peers.sh [--models bundled r50_giam] [--int8 MODEL=model.int8.onnx] [--rounds 12] [--out build/peers]

Exit status 0 when all rounds were run; contenders that are not installed are named and skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from torch import device

from peers.arena import Result, compare
from peers.contenders import Contender, Model, Setting, engine, engine_int8, served
from peers.models import BUILD, ROOT, prepare
from peers.others import mask2former, mask_rcnn
from peers.plain import plain
from peers.summary import bars, figures, summarise, table
from sparseinst.stopwatch import machine
from sparseinst_runtime.files import atomic_write

REFERENCE = "plain PyTorch, same weights"
SAMPLES = 2  # pictures that thresholds are chosen by


def main(arguments: list[str] | None = None) -> int:
    """Run every comparison and write Markdown, JSON and bars; the Markdown goes to stdout as well."""
    options = _parser().parse_args(arguments)
    files = sorted(path for path in options.pictures.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not files:
        sys.exit(f"bench_peers: no pictures in {options.pictures}")
    pictures = tuple(file.read_bytes() for file in files)
    threads = len(os.sched_getaffinity(0))
    about = machine(device("cpu"))
    texts = [
        f"{about['processor']}, {threads} threads, torch {about['torch']}; {options.rounds} rounds after "
        f"{options.warm_up}, {options.turn} pictures a turn, {len(files)} pictures, at most {options.instances} "
        "instances a picture."
    ]
    report: dict[str, Any] = {"machine": about | {"threads": threads}, "setting": _setting(options), "models": {}}
    panels = {}
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        model = prepare(name, dict(options.int8).get(name))
        taking_part = contenders(model, options.concurrency)
        setting = Setting(model, options.instances, threads, pictures[:SAMPLES])
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(name, total=(options.warm_up + options.rounds) * len(taking_part))
            result = compare(
                taking_part,
                setting,
                pictures,
                rounds=options.rounds,
                warm_up=options.warm_up,
                turn=options.turn,
                tick=lambda: bar.advance(task),  # noqa: B023 - called inside the loop only
            )
        agreement = result.agreement(REFERENCE, model.contract.score_threshold)
        rows = summarise(result.turns, REFERENCE, {c.name for c in taking_part if c.ours}, agreement)
        title = _title(model)
        texts += ["", f"**{title}**", "", table(rows, REFERENCE), *_notes(result, taking_part)]
        report["models"][name] = {"title": title, "rows": figures(rows), "skipped": result.skipped}
        panels[title] = rows
    text = "\n".join(texts) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write(options.out / "peers.md", text)
    atomic_write(options.out / "peers.json", json.dumps(report, indent=1) + "\n")
    atomic_write(options.out / "peers.png", bars(panels))
    sys.stdout.write(text + f"\n{options.out}: peers.md, peers.json, peers.png\n")
    return 0


def contenders(model: Model, concurrency: int) -> list[Contender]:
    """Who takes part for a model, ours first."""
    mine: dict[str, Any] = {"ours": True, "same_weights": True}
    chosen = [
        Contender("served, 1 client", served, "cpu", about="Triton, gRPC, JPEG in and run lengths out", **mine),
        Contender(f"served, {concurrency} clients", served, "cpu-throughput", concurrency, **mine),
        Contender("our engine in process", engine, about="the same steps without a server", **mine),
    ]
    if model.int8 is not None:
        chosen += [
            Contender("served int8, 1 client", served, "cpu-int8", **mine),
            Contender(f"served int8, {concurrency} clients", served, "cpu-int8-throughput", concurrency, **mine),
            Contender("our engine in process, int8", engine_int8, **mine),
        ]
    return [
        *chosen,
        Contender(REFERENCE, plain, same_weights=True, about="eager float32, full-size maps, pycocotools"),
        Contender("torchvision Mask R-CNN R-50-FPN", mask_rcnn, about="random weights, the same input size"),
        Contender("transformers Mask2Former Swin-T", mask2former, about="random weights, the same input size"),
    ]


def _title(model: Model) -> str:
    height, width = model.contract.input_size
    weights = "trained weights" if model.trained else "random weights: speed alone"
    return f"{model.contract.name if model.trained else model.name}, {height}x{width}, {weights}"


def _notes(result: Result, taking_part: list[Contender]) -> list[str]:
    said = [f"- {c.name}: {c.about}" for c in taking_part if c.about and c.name in result.turns]
    return ["", *said, *(f"- not compared: {name}: {why}" for name, why in result.skipped.items())]


def _setting(options: argparse.Namespace) -> dict[str, object]:
    names = ("models", "rounds", "warm_up", "turn", "instances", "concurrency")
    return {name: getattr(options, name) for name in names} | {"int8": [name for name, _ in options.int8]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench_peers", description="Compare what is served with what else there is.")
    parser.add_argument(
        "--models", nargs="+", default=["bundled", "r50_giam"], help="bundled, or variants with random weights"
    )
    parser.add_argument(
        "--int8",
        type=_int8,
        action="append",
        default=[],
        metavar="MODEL=M.onnx",
        help="a quantised graph of a model (default: model.int8.onnx beside its graph)",
    )
    parser.add_argument("--rounds", type=_count, default=12, help="that count (%(default)s)")
    parser.add_argument("--warm-up", type=_count, default=1, help="rounds before them (%(default)s)")
    parser.add_argument("--turn", type=_count, default=4, help="pictures in a turn (%(default)s)")
    parser.add_argument("--instances", type=_count, default=10, help="most for a picture (%(default)s)")
    parser.add_argument("--concurrency", type=_count, default=4, help="clients of the busy server (%(default)s)")
    parser.add_argument("--pictures", type=Path, default=ROOT / "assets" / "scenes" / "images", help="folder of them")
    parser.add_argument("--out", type=Path, default=BUILD, help="folder for the report (build/peers)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)


def _int8(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted MODEL=FILE, such as r50_giam=model.int8.onnx")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
