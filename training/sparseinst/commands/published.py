"""`sparseinst import-checkpoint`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    published = commands.add_parser("import-checkpoint", help="weights of the published code as weights of ours")
    published.add_argument("source", type=Path, help="state dict that torch saved, flat or under 'model'")
    published.add_argument("--variant", required=True, help="r50_giam, r50vd_dcn_giam_aug, ... (docs/variants.md)")
    published.add_argument("--out", type=Path, required=True, help="safetensors file to write, float32")
    published.add_argument(
        "--annotations", type=Path, help="COCO JSON with the classes of the weights (default: COCO's 80)"
    )
    published.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Import; prints what was written. Raises what `import_checkpoint` raises."""
    from sparseinst.checkpoint import parameter_count, save_weights
    from sparseinst.published import import_checkpoint

    model, contract = import_checkpoint(arguments.source, arguments.variant, arguments.annotations)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    out = save_weights(arguments.out, model, contract, half=False)
    tensors, millions = len(model.state_dict()), parameter_count(model) / 1e6
    sys.stdout.write(
        f"{out}: {contract.name}, all {tensors} tensors, {millions:.2f} M parameters, {len(contract.classes)} classes\n"
    )
    return 0
