"""`sparseinst import-checkpoint`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sparseinst.commands.arguments import positive


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    published = commands.add_parser("import-checkpoint", help="weights of the published code as weights of ours")
    published.add_argument(
        "source", type=Path, help="state dict, flat or under 'model' or 'state_dict'; never a pickle with code"
    )
    published.add_argument("--variant", required=True, help="r50_giam, r50vd_dcn_giam_aug, ... (docs/variants.md)")
    published.add_argument("--out", type=Path, required=True, help="safetensors file to write, float32")
    published.add_argument(
        "--annotations", type=Path, help="COCO JSON with the classes of the weights (default: COCO's 80)"
    )
    published.add_argument(
        "--input-size",
        type=positive(int),
        metavar="S",
        help="side of the square input in the contract, a multiple of 32 (default: the variant's short side)",
    )
    published.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Import; prints what was written. Raises what `import_checkpoint` raises."""
    from sparseinst.checkpoint import parameter_count, save_weights
    from sparseinst.published import import_checkpoint
    from sparseinst.state_dicts import listed

    model, contract, left_out = import_checkpoint(
        arguments.source, arguments.variant, arguments.annotations, arguments.input_size
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    out = save_weights(arguments.out, model, contract, half=False)
    tensors, millions = len(model.state_dict()), parameter_count(model) / 1e6
    sys.stdout.write(
        f"{out}: {contract.name}, all {tensors} tensors, {millions:.2f} M parameters, {len(contract.classes)} classes, "
        f"{contract.input_size[0]}x{contract.input_size[1]} px\n"
    )
    if left_out:
        sys.stdout.write(f"{len(left_out)} left out, no parameters of ours: {listed(left_out)}\n")
    return 0
