"""What a smaller or larger input costs and gives: mask AP against time, float32 and int8, of one network's weights.

    .venv/bin/python ci/speed_accuracy.py --calibrate train.json train/ --judge val.json val/ --out build/speed_accuracy

The weights are exported for each size, quantised with the groups of layers in float that their own int8 graph keeps
there, and judged by OpenVINO on the pictures of --judge; then all graphs compute in turn. Graphs and figures stay
in --out and are not made again. Nothing is trained anew: at a size far from that of training (320) a network that was
trained for it would do better.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from matplotlib.figure import Figure
from rich.progress import track

from sparseinst.data import CocoInstances, evaluation_files
from sparseinst.evaluate import evaluate
from sparseinst_export.cli import main as export
from sparseinst_export.engines import openvino_engine
from sparseinst_runtime.coco import ground_truth
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write

MODEL = Path(__file__).resolve().parents[1] / "assets" / "models" / "animals"
SIZES = (192, 224, 256, 288, 320, 384, 448)
PRECISIONS = {"float32": "model.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True)
class Point:
    """One graph.

    Attributes:
        size: side of its input, pixels.
        precision: "float32" or "int8".
        ap: COCO mask AP of the judged pictures.
        milliseconds: median time of one picture, all cores.
    """

    size: int
    precision: str
    ap: float
    milliseconds: float


def main() -> int:
    """Make, judge and time all graphs; write a table, JSON and a picture."""
    options = _parser().parse_args()
    folders = {size: options.out / str(size) for size in options.sizes}
    for size, folder in folders.items():
        make(options.model, size, folder, *options.calibrate)
    graphs = {(size, name): folders[size] / file for size in folders for name, file in PRECISIONS.items()}
    dataset = CocoInstances(*options.judge, keep_empty=True)
    aps = {key: judge(graph, dataset, options.judge[0]) for key, graph in track(graphs.items(), "judging")}
    times = measure(graphs, options.rounds)
    points = [Point(size, name, aps[size, name], times[size, name]) for size, name in graphs]
    atomic_write(options.out / "points.json", json.dumps([asdict(point) for point in points], indent=1) + "\n")
    atomic_write(options.out / "speed_accuracy.png", draw(points))
    say = sys.stdout.write
    say("| input | float32, AP | ms | int8, AP | ms |\n|---:|---:|---:|---:|---:|\n")
    for size in options.sizes:
        cells = [f"{point.ap:.3f} | {point.milliseconds:.1f}" for point in points if point.size == size]
        say(f"| {size} | {' | '.join(cells)} |\n")
    return 0


def make(model: Path, size: int, folder: Path, annotations: Path, images: Path) -> None:
    """The float32 and the int8 graph of a size, where they are not there."""
    graph, int8 = (folder / name for name in PRECISIONS.values())
    folder.mkdir(parents=True, exist_ok=True)
    kept = json.loads((model / "model.int8.json").read_text())["kept_float"]
    commands = {
        graph: ["onnx", "--weights", str(model / "model.safetensors"), "--size", str(size), "--out", str(graph)],
        int8: [
            *("quantize", "--onnx", str(graph), "--annotations", str(annotations), "--images", str(images)),
            *("--out", str(int8), "--no-search", "--keep-float", *kept),
        ],
    }
    for file, command in commands.items():
        if not file.exists() and export(command) != 0:
            sys.exit(f"speed_accuracy: {file} could not be made")


def judge(graph: Path, dataset: CocoInstances, annotations: Path) -> float:
    """Mask AP of a graph in OpenVINO; remembered beside it."""
    known = graph.with_suffix(".ap.json")
    if not known.exists():
        contract = Contract.load(graph.with_name("contract.json"))
        truth = ground_truth(str(annotations), contract)
        summary, _ = evaluate(openvino_engine(graph), contract, truth, evaluation_files(dataset))
        atomic_write(known, json.dumps({"ap": summary.ap}) + "\n")
    return float(json.loads(known.read_text())["ap"])


def measure(graphs: dict[tuple[int, str], Path], rounds: int) -> dict[tuple[int, str], float]:
    """Median milliseconds of one picture by each graph, all in turn in each round."""
    core, chance = ov.Core(), np.random.default_rng(0)
    settings = {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    requests = {key: core.compile_model(path, "CPU", settings).create_infer_request() for key, path in graphs.items()}
    times: dict[tuple[int, str], list[float]] = {key: [] for key in graphs}
    for _ in range(rounds):
        for (size, name), request in requests.items():
            pixels = chance.integers(0, 256, (1, size, size, 3), np.uint8)
            for turn in range(4):
                start = time.perf_counter()
                request.infer([pixels], share_inputs=True)
                if turn:  # the first one finds the caches full of another graph
                    times[size, name].append(1000 * (time.perf_counter() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def draw(points: list[Point]) -> bytes:
    """AP over milliseconds, a line for each precision, as PNG."""
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    styles = (("float32", "o", "#0072B2", (7, -11), "left"), ("int8", "s", "#D55E00", (-7, 5), "right"))
    for precision, marker, colour, offset, side in styles:
        line = sorted((each for each in points if each.precision == precision), key=lambda each: each.size)
        x, y = [each.milliseconds for each in line], [each.ap for each in line]
        axes.plot(x, y, marker=marker, color=colour, label=precision)
        for each in line:
            place = {"textcoords": "offset points", "xytext": offset, "ha": side, "fontsize": 8}
            axes.annotate(str(each.size), (each.milliseconds, each.ap), color=colour, **place)
    axes.set(xlabel="milliseconds a picture, network alone, two cores", ylabel="mask AP, validation pictures")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="numbers: side of the input", title_fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pair = {"nargs": 2, "type": Path, "metavar": ("JSON", "DIR"), "required": True}
    parser.add_argument("--calibrate", help="COCO dataset whose pictures give int8's ranges: training pictures", **pair)
    parser.add_argument("--judge", help="COCO dataset that AP is measured on", **pair)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with weights and int8 graph (the bundled)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="%(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="%(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/speed_accuracy"), help="%(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
