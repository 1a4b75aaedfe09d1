"""`sparseinst-export onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say
from sparseinst_runtime.contract import MASK_STRIDES

DESCRIPTION = """\
Write the network as one ONNX file: uint8 pictures in; scores, labels and uint8 masks out; any batch size.

The file is written only if it holds: onnx's checker accepts it, and ONNX Runtime gives what PyTorch gives for batches
of one and of three pictures. contract.json is written beside it. Needs the extra `export`.

Size, number of instances and size of the masks are those of the weights' contract unless options say otherwise; the
contract that is written follows them. A graph with a fixed batch or extra outputs is not for a model repository, and no
contract.json is written for it; its metadata have the contract.

Precision is a property of the graph: TensorRT computes in what the graph says. In fp16 the network is half precision;
pictures, outputs, activation maps and scoring are as in fp32, and so is the contract.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    onnx = commands.add_parser(
        "onnx",
        help="weights to an ONNX graph, proved against PyTorch",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    onnx.add_argument("--weights", type=Path, required=True, metavar="W", help="safetensors file of a training")
    onnx.add_argument("--out", type=Path, required=True, metavar="M.onnx", help="the graph to write")
    onnx.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of the network (%(default)s)")
    onnx.add_argument(
        "--size", type=_size, metavar="HxW", help="of the input, multiples of 32: 640, or 640x864 (the contract's)"
    )
    onnx.add_argument(
        "--max-instances", type=int, metavar="K", help="give out the K best instances only (the contract's)"
    )
    onnx.add_argument(
        "--mask-stride", type=int, choices=MASK_STRIDES, help="input pixels per mask pixel (the contract's, usually 4)"
    )
    onnx.add_argument("--batch", type=int, metavar="B", help="take batches of B and no other (any)")
    onnx.add_argument("--raw", action="store_true", help="also give out the logits of classes, objectness and masks")
    onnx.add_argument("--activations", action="store_true", help="also give out the instance activation maps")
    onnx.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the graph and say how close it is."""
    from sparseinst_export.graph_options import GraphOptions
    from sparseinst_export.onnx import export_onnx

    graph = GraphOptions(
        input_size=options.size,
        max_instances=options.max_instances,
        mask_stride=options.mask_stride,
        batch=options.batch,
        extras=tuple(extra for extra in ("raw", "activations") if getattr(options, extra)),
    )
    export = export_onnx(options.weights, options.out, precision=options.precision, options=graph)
    for difference in export.differences:
        say(f"  {difference}")
    contract = export.contract or "in its metadata only, it is not for a model repository"
    say(f"{export.graph}: {export.size / 1e6:.1f} MB, {export.nodes} operators; its contract: {contract}")
    return 0


def _size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) not in {1, 2}:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted a number, or height x width such as 640x864")
    return int(sides[0]), int(sides[-1])
