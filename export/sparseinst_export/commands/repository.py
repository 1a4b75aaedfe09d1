"""`sparseinst-export repository`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say
from sparseinst_export.repository import MODELS, assemble, find_template
from sparseinst_runtime.contract import Contract

DESCRIPTION = """\
Fill the project's model repository with an exported network.

The CPU engine reads the ONNX file itself. TensorRT serves a plan; build it inside the image that serves it, since a
plan runs on the GPU and the TensorRT version it was built with, and give it with --plan
(not verified on a GPU):
  trtexec --onnx=model.onnx --saveEngine=model.plan --minShapes=image:1xHxWx3 \\
          --optShapes=image:4xHxWx3 --maxShapes=image:8xHxWx3       (H, W: input_size of contract.json)
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    repository = commands.add_parser(
        "repository",
        help="an ONNX graph to a model repository that Triton serves",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    repository.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    repository.add_argument("--contract", type=Path, metavar="C", help="its contract (contract.json beside the graph)")
    repository.add_argument("--plan", type=Path, metavar="P", help="TensorRT engine of the same graph")
    repository.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model repository to write")
    repository.add_argument("--template", type=Path, metavar="DIR", help="model_repository/ (that of the checkout)")
    repository.add_argument("--version", type=int, default=1, metavar="V", help="number of the version folders (1)")
    repository.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    contract = options.contract or options.onnx.with_name("contract.json")
    template = options.template or find_template()
    out = assemble(template, options.onnx, contract, options.out, version=options.version, plan=options.plan)
    loaded = Contract.load(contract)
    engines = "model.onnx for the CPU" + (" and model.plan for TensorRT" if options.plan else "")
    say(f"{out}: {len(MODELS)} models, version {options.version}, with {engines}")
    sizes = f"{loaded.input_size[0]}x{loaded.input_size[1]} px, up to {loaded.max_instances} instances"
    say(f"  {loaded.name}: {len(loaded.classes)} classes, {sizes}")
    return 0
