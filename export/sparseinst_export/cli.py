"""`sparseinst-export`: from trained weights to an ONNX graph, its AP, and from there to a model repository for Triton.

Each command imports what it needs when it runs: `repository` works on a serving machine without torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sparseinst_export.engines import ENGINES
from sparseinst_export.repository import MODELS, assemble, find_template
from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "Turn trained weights into what Triton Inference Server runs."
EPILOG = """\
the way of a model:
  sparseinst train ... --out runs/mine                     weights with their contract
  sparseinst-export onnx --weights runs/mine/best.safetensors --out build/mine/model.onnx
                                                           the graph, checked against the weights, and contract.json
  sparseinst-export evaluate --onnx build/mine/model.onnx --annotations val.json --images val/
                                                           its COCO mask AP, to hold against that of the weights
  sparseinst-export repository --onnx build/mine/model.onnx --out build/model_repository
                                                           a folder that Triton serves
"""
ONNX_DESCRIPTION = """\
Write the network as one ONNX file: uint8 pictures in; scores, labels and uint8 masks out; any batch size.

The file is written only if it holds: onnx's checker accepts it, and ONNX Runtime gives what PyTorch gives for batches
of one and of three pictures. contract.json is written beside it. Needs the extra `export`.
"""
EVALUATE_DESCRIPTION = """\
COCO mask AP of an exported graph: the same letterbox, masks and scoring as `sparseinst evaluate`, another engine.

OpenVINO is the engine that is served on CPUs, here as there in float32. Needs the extra `export`.
"""
REPOSITORY_DESCRIPTION = """\
Fill the project's model repository with an exported network.

The CPU engine reads the ONNX file itself. TensorRT serves a plan; build it inside the image that serves it, since a
plan runs on the GPU and the TensorRT version it was built with, and give it with --plan
(not verified on a GPU):
  trtexec --onnx=model.onnx --saveEngine=model.plan --minShapes=image:1xSxSx3 \\
          --optShapes=image:4xSxSx3 --maxShapes=image:8xSxSx3       (S: input_size of contract.json)
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line, with its help."""
    parser = argparse.ArgumentParser(
        prog="sparseinst-export",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    onnx = commands.add_parser(
        "onnx",
        help="weights to an ONNX graph, proved against PyTorch",
        description=ONNX_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    onnx.add_argument("--weights", type=Path, required=True, metavar="W", help="safetensors file of a training")
    onnx.add_argument("--out", type=Path, required=True, metavar="M.onnx", help="the graph to write")
    onnx.set_defaults(run=_onnx)

    evaluate = commands.add_parser(
        "evaluate",
        help="COCO mask AP of an ONNX graph",
        description=EVALUATE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    evaluate.add_argument("--contract", type=Path, metavar="C", help="its contract (contract.json beside the graph)")
    evaluate.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO instances JSON")
    evaluate.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of its pictures")
    evaluate.add_argument("--out", type=Path, default=Path("results.json"), help="COCO results (%(default)s)")
    evaluate.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="what runs it (%(default)s)")
    evaluate.set_defaults(run=_evaluate)

    repository = commands.add_parser(
        "repository",
        help="an ONNX graph to a model repository that Triton serves",
        description=REPOSITORY_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    repository.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="the exported graph")
    repository.add_argument("--contract", type=Path, metavar="C", help="its contract (contract.json beside the graph)")
    repository.add_argument("--plan", type=Path, metavar="P", help="TensorRT engine of the same graph")
    repository.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model repository to write")
    repository.add_argument("--template", type=Path, metavar="DIR", help="model_repository/ (that of the checkout)")
    repository.add_argument("--version", type=int, default=1, metavar="V", help="number of the version folders (1)")
    repository.set_defaults(run=_repository)
    return parser


def _onnx(options: argparse.Namespace) -> None:
    from sparseinst_export.onnx import export_onnx  # noqa: PLC0415, repository works without torch

    export = export_onnx(options.weights, options.out)
    for difference in export.differences:
        _say(f"  {difference}")
    _say(f"{export.graph}: {export.size / 1e6:.1f} MB, {export.nodes} operators; its contract: {export.contract}")


def _evaluate(options: argparse.Namespace) -> None:
    from sparseinst.evaluate import evaluate_files  # noqa: PLC0415, as above
    from sparseinst_export.onnx import load_graph  # noqa: PLC0415

    contract = Contract.load(options.contract or options.onnx.with_name("contract.json"))
    engine = ENGINES[options.engine](load_graph(options.onnx, contract))
    sys.stdout.write(evaluate_files(engine, contract, options.annotations, options.images, options.out))


def _repository(options: argparse.Namespace) -> None:
    contract = options.contract or options.onnx.with_name("contract.json")
    template = options.template or find_template()
    out = assemble(template, options.onnx, contract, options.out, version=options.version, plan=options.plan)
    loaded = Contract.load(contract)
    engines = "model.onnx for the CPU" + (" and model.plan for TensorRT" if options.plan else "")
    _say(f"{out}: {len(MODELS)} models, version {options.version}, with {engines}")
    sizes = f"{loaded.input_size} px, up to {loaded.max_instances} instances"
    _say(f"  {loaded.name}: {len(loaded.classes)} classes, {sizes}")


def _say(line: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(line + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 with a sentence on stderr when the user can help it."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:  # the user's errors of every package are ValueErrors
        _say(f"sparseinst-export: {error}", stream=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed; install the extra: pip install 'sparseinst[export]'"
        _say(f"sparseinst-export: {missing}", stream=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
