"""`sparseinst-export`: from trained weights to an ONNX graph, its AP, and from there to a model repository for Triton.

The commands themselves are in `commands/`; each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from sparseinst_export.commands import (
    card,
    check_tensorrt,
    evaluate,
    onnx,
    quantize,
    repository,
    roofline,
    tensorrt,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "Turn trained weights into what Triton Inference Server runs."
EPILOG = """\
the way of a model:
  sparseinst train ... --out runs/mine                     weights with their contract
  sparseinst-export onnx --weights runs/mine/best.safetensors --out build/mine/model.onnx
                                                           the graph, checked against the weights, and contract.json
  sparseinst-export check-tensorrt build/mine/model.onnx   whether TensorRT's parser and compiler take it, without a GPU
  sparseinst-export evaluate --onnx build/mine/model.onnx --annotations val.json --images val/
                                                           its COCO mask AP, to hold against that of the weights
  sparseinst-export verify --weights runs/mine/best.safetensors --onnx build/mine/model.onnx \\
      --annotations val.json --images val/ --out build/mine/verify
                                                           every engine against PyTorch, as a report
  sparseinst-export quantize --onnx build/mine/model.onnx --annotations train.json --images train/ \\
      --out build/mine/model.int8.onnx                     int8 for CPUs, with a search for what stays float
  sparseinst-export tensorrt --onnx build/mine/fp16/model.onnx --out build/mine/model.plan
                                                           a TensorRT plan, on the GPU that serves it
  sparseinst-export repository --onnx build/mine/model.onnx --out build/model_repository
                                                           a folder that Triton serves; versions, roll-back, checks
  sparseinst-export card --contract build/mine/contract.json --verify build/mine/verify/verify.json --out MODEL_CARD.md
                                                           what is known of it, in one page
  sparseinst-export roofline --onnx build/mine/model.onnx  least times on GPUs, and what a CPU reaches of its own
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line, with its help."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("sparseinst-export", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (onnx, evaluate, verify, quantize, check_tensorrt, tensorrt, repository, card, roofline):
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 with a sentence on stderr when the user can help it."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:  # the user's errors of every package are ValueErrors
        sys.stderr.write(f"sparseinst-export: {error}\n")
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed; install the extra: pip install 'sparseinst[export]'"
        sys.stderr.write(f"sparseinst-export: {missing}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
