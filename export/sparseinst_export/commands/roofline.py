"""`sparseinst-export roofline`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst_export.commands import say

if TYPE_CHECKING:
    from sparseinst_export.engine_times import EngineTimes, Share
    from sparseinst_export.graph_cost import GraphCost
    from sparseinst_export.roofline import Peak

DESCRIPTION = """\
What a graph costs on paper, and the least time that hardware needs for it.

Counts multiply-adds and bytes operator by operator, from the ONNX file alone, and holds them against data sheets of
GPUs. `floor` is what no engine goes below that computes the products as they stand; `fused` and `unfused` send every
activation through the memory. With --measure it finds this CPU's own peaks, times the graph in OpenVINO and says what
share is reached and where the rest goes; run it where nothing else does. Needs the extra `export`.
"""
LOSSES = 8  # layers that are named
BUSY = 1.2  # counters over processor time; on a calm machine they agree within a few per cent


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    roofline = commands.add_parser(
        "roofline",
        help="least times of a graph on given hardware, against measured ones",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    roofline.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    roofline.add_argument("--batch", type=_count, default=1, metavar="B", help="pictures in one pass (%(default)s)")
    roofline.add_argument(
        "--peak",
        type=_peak,
        action="append",
        default=[],
        metavar="NAME=GFLOPS,GBps",
        help="other hardware: dense operations and memory, both in 1e9 a second; in the graph's own precision",
    )
    roofline.add_argument("--measure", action="store_true", help="measure this CPU, and the graph in OpenVINO on it")
    roofline.add_argument("--threads", type=_count, default=1, metavar="T", help="for --measure (%(default)s)")
    roofline.add_argument("--repeats", type=_count, default=20, metavar="R", help="inferences to time (%(default)s)")
    roofline.add_argument("--json", type=Path, metavar="F", help="write all figures here as well")
    roofline.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Count, compare, and measure where asked to."""
    import onnx
    from google.protobuf.message import DecodeError

    from sparseinst_export.graph_cost import count
    from sparseinst_export.roofline import GPUS, Peak, bound
    from sparseinst_export.verify import ExportError
    from sparseinst_runtime.files import atomic_write

    data = options.onnx.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ExportError(f"{options.onnx} is no ONNX graph ({error}); `sparseinst-export onnx` writes one") from error
    said = next((prop.value for prop in model.metadata_props if prop.key == "precision"), "fp32")
    precision = "fp16" if said == "fp16" else "fp32"  # of the values that a quantised graph leaves float
    cost = count(model, options.batch)
    peaks = [*GPUS, *(Peak(name, precision, flops * 1e9, rate * 1e9) for name, flops, rate in options.peak)]
    say(f"{options.onnx}, batch {options.batch}, {said}\n")
    say(parts_table(cost, precision) + "\n")
    say(bounds_table(cost, peaks))
    figures: dict[str, Any] = {
        "graph": options.onnx.name,
        "batch": options.batch,
        "precision": said,
        "operators": [asdict(one) for one in cost.operators],
        "passes": [asdict(one) for one in cost.passes],
        "once": asdict(cost.once),
        "bounds": [asdict(peak) | asdict(bound(cost, peak)) for peak in peaks],
    }
    if options.measure:
        figures["measured"] = _measured(options, data, model, cost)
    if options.json:
        atomic_write(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _measured(options: argparse.Namespace, data: bytes, model: Any, cost: GraphCost) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    from sparseinst_export.cpu_peak import MEASUREMENTS, measure_peak
    from sparseinst_export.engine_times import measure, shares
    from sparseinst_export.verify import smooth_pictures

    _, height, width, _ = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=MEASUREMENTS + options.repeats)
        peak, kinds = measure_peak(options.threads, lambda: bar.advance(task))
        pictures = smooth_pictures(options.batch, (height, width))
        times = measure(data, pictures, options.threads, options.repeats, lambda: bar.advance(task))
    parts, layers, losses = shares(times, cost, peak)
    say("\n" + measured_text(cost, peak, times))
    whole = sum(share.seconds for share in parts)
    for title, rows in (("part", parts), ("layers", layers), ("largest losses", losses[:LOSSES])):
        say("\n" + shares_table(title, rows, whole))
    return {
        "peak": asdict(peak),
        "products": [asdict(kind) for kind in kinds],
        "times": asdict(times),
        "parts": [asdict(share) for share in parts],
        "kinds": [asdict(share) for share in layers],
        "losses": [asdict(share) for share in losses],
    }


def parts_table(cost: GraphCost, precision: str) -> str:
    """Multiply-adds and megabytes by part."""
    from sparseinst_export.roofline import WIDTHS, intensity

    width = WIDTHS[precision]
    rows: list[tuple[str, ...]] = [
        ("part", "GMACs", "weights MB", "activations MB, unfused", "fused", "operations/byte, unfused", "fused")
    ]
    names = [*dict.fromkeys(one.part for one in cost.operators), ""]
    for name in names:
        apart = [one for one in cost.operators if name in ("", one.part)]
        passes = [one for one in cost.passes if name in ("", one.part)]
        moved = [sum(one.activations.bytes(width) for one in costs) / 1e6 for costs in (apart, passes)]
        rows.append(
            (
                name or "whole",
                f"{sum(one.macs for one in apart) / 1e9:.3f}",
                f"{sum(one.weights.bytes(width) for one in passes) / 1e6:.2f}",
                *(f"{value:.1f}" for value in moved),
                *(f"{intensity(costs, precision):.1f}" for costs in (apart, passes)),
            )
        )
    return _table(rows)


def bounds_table(cost: GraphCost, peaks: list[Peak]) -> str:
    """Least times on data sheets' figures."""
    from sparseinst_export.roofline import bound

    rows: list[tuple[str, ...]] = [
        ("hardware", "", "products ms", "moved once ms", "floor ms", "fused ms", "unfused ms", "pictures/s, at most")
    ]
    for peak in peaks:
        least = bound(cost, peak)
        each = (least.compute, least.once, least.floor, least.fused, least.unfused)
        most = f"{cost.batch / least.floor:,.0f}"
        rows.append((peak.name, peak.precision, *(f"{1e3 * value:.3f}" for value in each), most))
    return _table(rows)


def measured_text(cost: GraphCost, peak: Peak, times: EngineTimes) -> str:
    """The peaks, and the whole against its floor."""
    from sparseinst_export.roofline import bound

    least = bound(cost, peak)
    counted = sum(layer.seconds for layer in times.layers)
    time = "processor time" if times.threads == 1 else "the clock"
    busy = [] if counted <= BUSY * times.whole else ["The machine was busy: take what the layers took as rough."]
    return "\n".join(
        [
            f"{peak.name}: {peak.operations / 1e9:.0f} GFLOPS in float32, {(peak.quantised or 0) / 1e9:.0f} GOPS in "
            f"int8 (convolutions), {peak.bandwidth / 1e9:.1f} GB/s of memory, {(peak.near or 0) / 1e9:.1f} of cache",
            f"OpenVINO: {1e3 * times.whole:.2f} ms by {time}, median; {1e3 * counted:.2f} ms by its own counters",
            f"floor {1e3 * least.floor:.2f} ms, {least.floor / times.whole:.0%} of the measured time; pass by pass, in "
            f"the cache, {1e3 * least.fused:.2f} ms, {least.fused / times.whole:.0%}",
            *busy,
        ]
    )


def shares_table(title: str, shares: list[Share], whole: float) -> str:
    """Measured and least times of parts, kinds or layers; `whole` is the measured time of all, in seconds."""
    rows: list[tuple[str, ...]] = [
        (title, "ms", "share of it", "GFLOPS", "products ms", "least ms", "of the roofline", "lost ms")
    ]
    for share in shares:
        rows.append(
            (
                share.name,
                f"{1e3 * share.seconds:.2f}",
                f"{share.seconds / whole:.0%}",
                f"{2 * share.macs / share.seconds / 1e9:.0f}" if share.macs else "",
                f"{1e3 * share.compute:.2f}",
                f"{1e3 * share.least:.2f}",
                f"{share.least / share.seconds:.0%}" if share.least else "",
                f"{1e3 * (share.seconds - share.least):.2f}",
            )
        )
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    """Markdown, lined up to be read in a terminal too: the first row is the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0] + " |", rule, *(f"{line} |" for line in lines[1:])])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)


def _peak(text: str) -> tuple[str, float, float]:
    name, _, figures = text.partition("=")
    try:
        flops, rate = (float(figure) for figure in figures.split(","))
    except ValueError:
        flops = rate = 0.0
    if not name or flops <= 0 or rate <= 0:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted NAME=GFLOPS,GBps such as 'A100=312000,1555'")
    return name, flops, rate
