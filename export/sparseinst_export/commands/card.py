"""`sparseinst-export card`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say
from sparseinst_runtime.files import atomic_write

DESCRIPTION = """\
Write a model card, in Hugging Face's format, from the files that a model came with: every figure is read, none typed.

What no file knows (uses, data and rights, limits, licence) comes from a Markdown file of yours, section by section:
`## Uses`, `## Data`, `## Limits`, `## Licence` go to their place in the card, text under the name of a generated
section (`## Evaluation`) goes below it, other sections follow. A section without its file is left out, and files that
are not of one model are refused. FILE may be NAME=FILE, which gives the figures that name in the card. Needs the extra
`export`.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    card = commands.add_parser(
        "card",
        help="a model card from contract, weights and reports",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    card.add_argument("--contract", type=Path, required=True, metavar="C", help="contract.json of the model")
    card.add_argument(
        "--weights", type=Path, metavar="W", help="its safetensors file: architecture, what training wrote"
    )
    card.add_argument(
        "--evaluation",
        type=named,
        action="append",
        default=[],
        metavar="FILE",
        help="report.json of `sparseinst evaluate --report`; may be given several times",
    )
    card.add_argument("--verify", type=Path, metavar="F", help="verify.json of `sparseinst-export verify`")
    card.add_argument(
        "--benchmark",
        type=named,
        action="append",
        default=[],
        metavar="FILE",
        help="JSON of `sparseinst benchmark` or clients/benchmark.py; may be given several times",
    )
    card.add_argument("--quantization", type=Path, metavar="F", help="JSON beside an int8 graph (model.int8.json)")
    card.add_argument("--engine", type=Path, metavar="F", help="JSON beside a TensorRT plan (model.plan.json)")
    card.add_argument("--notes", type=Path, metavar="F", help="the hand-written sections, Markdown")
    card.add_argument("--out", type=Path, required=True, metavar="MODEL_CARD.md", help="the card to write")
    card.set_defaults(run=run)


def named(text: str) -> tuple[str, Path]:
    """A type for argparse: `scenes=runs/report.json`; without a name that of the file is taken."""
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


def run(options: argparse.Namespace) -> int:
    """Write the card; raises CardError where a file does not serve."""
    from sparseinst_export.card import Sources, model_card

    sources = Sources(
        contract=options.contract,
        weights=options.weights,
        evaluations=dict(options.evaluation),
        verification=options.verify,
        benchmarks=dict(options.benchmark),
        quantisation=options.quantization,
        engine=options.engine,
        notes=options.notes,
    )
    atomic_write(options.out, model_card(sources))
    say(f"{options.out}")
    return 0
