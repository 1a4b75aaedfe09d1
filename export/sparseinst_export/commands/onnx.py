"""`sparseinst-export onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say

DESCRIPTION = """\
Write the network as one ONNX file: uint8 pictures in; scores, labels and uint8 masks out; any batch size.

The file is written only if it holds: onnx's checker accepts it, and ONNX Runtime gives what PyTorch gives for batches
of one and of three pictures. contract.json is written beside it. Needs the extra `export`.

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
    onnx.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the graph and say how close it is."""
    from sparseinst_export.onnx import export_onnx

    export = export_onnx(options.weights, options.out, precision=options.precision)
    for difference in export.differences:
        say(f"  {difference}")
    say(f"{export.graph}: {export.size / 1e6:.1f} MB, {export.nodes} operators; its contract: {export.contract}")
    return 0
