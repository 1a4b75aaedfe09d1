"""`sparseinst`: train, evaluate and predict from the shell. The commands themselves are in `commands/`."""

from __future__ import annotations

import argparse
import sys

from sparseinst.commands import ablation, benchmark, datasets, evaluate, figures, predict, published, train

EXAMPLES = """examples:
  sparseinst train --recipe compact --annotations train.json --images train/ \\
      --val-annotations val.json --val-images val/ --backbone-weights mobilenet_v2.pt --out runs/compact
  sparseinst train ... --resume                      goes on where a killed run stopped
  sparseinst evaluate --weights runs/compact/best.safetensors --annotations val.json --images val/
  sparseinst predict --weights runs/compact/best.safetensors picture.jpg --out predictions/
  sparseinst figures activations --weights runs/compact/best.safetensors picture.jpg --out maps.png
  sparseinst benchmark --variant r50_giam --sizes 320 640
  sparseinst import-checkpoint sparse_inst_r50_giam.pth --variant r50_giam --out r50_giam.safetensors
"""


def parser() -> argparse.ArgumentParser:
    """The command line, documented."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("sparseinst", description=__doc__, epilog=EXAMPLES, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True)
    for module in (train, evaluate, predict, published, datasets, benchmark, figures, ablation):
        module.add(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 1 with one sentence on stderr when the user can mend it."""
    arguments = parser().parse_args(argv)
    import torch  # noqa: PLC0415 (seconds to import: --help must not wait for it)

    from sparseinst.train import TrainingError  # noqa: PLC0415

    try:
        return int(arguments.run(arguments))
    except (TrainingError, ValueError, OSError) as error:  # our other errors are ValueErrors
        sys.stderr.write(f"sparseinst {arguments.command}: {error}\n")
        return 1
    except torch.OutOfMemoryError as error:
        sys.stderr.write(f"sparseinst {arguments.command}: {error}\nlower --batch-size and raise --accumulate\n")
        return 1
    except KeyboardInterrupt:
        words = "interrupted; go on with --resume" if arguments.command == "train" else "interrupted"
        sys.stderr.write(f"sparseinst {arguments.command}: {words}\n")
        return 130
