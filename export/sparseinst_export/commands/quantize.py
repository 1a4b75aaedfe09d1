"""`sparseinst-export quantize`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseinst_export.commands import say

if TYPE_CHECKING:
    from sparseinst_export.mixed_precision import Measure
    from sparseinst_export.quantize import Quantisation

DESCRIPTION = """\
Quantise a float32 graph after training: int8, or fp8 for TensorRT, as Q/DQ pairs in an ONNX file with the same inputs,
outputs and contract.

Pictures give the ranges. Other pictures say what each group of layers costs when it is quantised; the costliest stay
float until the mask AP on them drops by no more than --max-drop, and agreement (mask AP against what the float graph
finds) is at least --min-agreement. Where the annotations hold no instances, agreement alone decides. Give TRAINING
pictures: what chooses the layers must not judge the result. The honest figure comes from pictures that were not used
here, by `sparseinst-export evaluate`.

Beside M.onnx come contract.json and M.json, the table of all measures, written as they are made: a run that was
stopped goes on where it was. Needs the extra `export`. --target tensorrt and fp8 are not verified on a GPU.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    quantize = commands.add_parser(
        "quantize",
        help="a float32 graph to int8 or fp8, with pictures",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    quantize.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported float32 graph")
    quantize.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    quantize.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    quantize.add_argument("--out", type=Path, required=True, metavar="M.onnx", help="the graph to write")
    quantize.add_argument(
        "--target",
        choices=("cpu", "tensorrt"),
        help="cpu: uint8 and int8; tensorrt: int8 around 0 alone (cpu, for fp8 tensorrt)",
    )
    quantize.add_argument("--precision", choices=("int8", "fp8"), default="int8", help="of the layers (%(default)s)")
    quantize.add_argument(
        "--calibration-pictures", type=_count, default=128, metavar="N", help="for the ranges (%(default)s)"
    )
    quantize.add_argument(
        "--search-pictures", type=_count, default=100, metavar="N", help="to measure groups on (%(default)s)"
    )
    quantize.add_argument(
        "--max-drop", type=float, default=0.005, metavar="D", help="of the AP on those, in 0..1 (%(default)s)"
    )
    quantize.add_argument(
        "--min-agreement", type=float, default=0.95, metavar="A", help="with the float graph, in 0..1 (%(default)s)"
    )
    quantize.add_argument(
        "--keep-float", nargs="+", default=[], metavar="GROUP", help="leave these groups of layers float"
    )
    quantize.add_argument("--no-search", action="store_true", help="quantise all other groups without measuring")
    quantize.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice of pictures (%(default)s)")
    quantize.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the graph and say what each group costs."""
    from sparseinst_export.quantize import Settings, quantize

    settings = Settings(
        target=options.target or ("tensorrt" if options.precision == "fp8" else "cpu"),
        precision=options.precision,
        calibration_pictures=options.calibration_pictures,
        search_pictures=options.search_pictures,
        max_drop=options.max_drop,
        min_agreement=options.min_agreement,
        keep_float=tuple(options.keep_float),
        search=not options.no_search,
        seed=options.seed,
    )
    result = quantize(options.onnx, options.annotations, options.images, options.out, settings)
    say(describe(result, settings.precision))
    return 0


def describe(result: Quantisation, precision: str) -> str:
    """The table, and what came out."""
    width = max(len(group.name) for group in result.groups)
    lines = [f"{'group':{width}}  layers  share of work  AP alone  agreement alone  precision"]
    for group in result.groups:
        ap, agreement = ("-", "-") if group.alone is None else (_ap(group.alone), f"{group.alone.agreement:.4f}")
        kind = precision if group.quantised else "float"
        lines.append(f"{group.name:{width}}  {group.layers:6}  {group.share:13.1%}  {ap:>8}  {agreement:>15}  {kind}")
    if result.found is not None:
        found = result.found
        for name, measure in (
            ("float", found.reference),
            ("all quantised", found.everything),
            ("written", found.result),
        ):
            lines.append(f"{name}: AP {_ap(measure)}, agreement {measure.agreement:.4f} on the search pictures")
    share = sum(group.share for group in result.groups if group.quantised)
    lines.append(f"{result.graph}: {result.size / 1e6:.1f} MB, {share:.1%} of the work in {precision}; {result.record}")
    return "\n".join(lines)


def _ap(measure: Measure) -> str:
    return "-" if measure.ap is None else f"{measure.ap:.4f}"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)
