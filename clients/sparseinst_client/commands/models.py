"""`sparseinst-client models`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.markup import escape
from rich.table import Table

from sparseinst_client.client import Client
from sparseinst_client.commands.arguments import add_command, address, complain, connect, console, say
from sparseinst_client.errors import NotAllowed, SparseInstError
from sparseinst_client.repository_index import ServedModel, ready_models, served_models

EXAMPLES = """\
  sparseinst-client models
      every model with its version and state, and what the model that is asked for knows
  sparseinst-client models --model sparseinst_v2 --url http://gpu-box:8000
      of another server; classes and sizes of another model
"""
DESCRIPTION = """\
List what a server serves, with its state, and say what the model that is asked for knows: classes, sizes, thresholds.

Exit status 0 when that model is ready. Servers may hide their repository; they are asked for the usual models then.
"""
# Those of a repository that sparseinst-export assembles.
_USUAL = (
    "sparseinst",
    "sparseinst_pixels",
    "sparseinst_preprocess",
    "sparseinst_network",
    "sparseinst_postprocess",
)
_MANY = 12  # class names in a line


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    models = add_command(commands, "models", "what the server serves", DESCRIPTION, EXAMPLES)
    models.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table and the contract."""
    with connect(options) as client:
        where = address(options)
        try:
            models = served_models(where, options.timeout)
        except NotAllowed:
            say("the server does not show its repository; of the usual models it says:")
            models = ready_models(where, dict.fromkeys((*_USUAL, options.model)), options.timeout)
        console().print(_table(models))
        return _describe(client, options.model)


def _describe(client: Client, model: str) -> int:
    try:
        contract, ready = client.contract(), client.ready()
    except SparseInstError as error:
        complain(f"{model}: {error}")
        return 1
    names = ", ".join(contract.classes[:_MANY])
    more = f" and {len(contract.classes) - _MANY} more" if len(contract.classes) > _MANY else ""
    height, width = contract.input_size
    say(f"{model}: {'ready' if ready else 'not ready'}")
    say(f"  classes: {len(contract.classes)}: {names}{more}")
    say(f"  input: {height} x {width} pixels; instances: {contract.max_instances} at most")
    say(f"  thresholds: score {contract.score_threshold:g}, mask {contract.mask_threshold:g}")
    return 0 if ready else 1


def _table(models: list[ServedModel]) -> Table:
    table = Table()
    for column in ("model", "version", "state", "reason"):
        table.add_column(column)
    for model in models:
        table.add_row(escape(model.name), escape(model.version), escape(model.state), escape(model.reason))
    return table
