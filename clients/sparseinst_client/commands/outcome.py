"""What became of many pictures, for the end of a command."""

from __future__ import annotations

from pathlib import Path

from sparseinst_client.commands.arguments import SOME_REFUSED, complain, say
from sparseinst_client.folder import Outcome

_LISTED = 20


def report(outcome: Outcome, out: Path | str) -> None:
    """Say how many are done, on stdout, and which are not, on stderr."""
    earlier = f", {outcome.skipped} were there already" if outcome.skipped else ""
    say(f"{outcome.done} pictures segmented{earlier}: {out}")
    for listed, what in ((outcome.refused, "cannot be segmented"), (outcome.failed, "failed; run again to retry")):
        for name, reason in listed[:_LISTED]:
            complain(f"{name}: {reason}")
        if listed:
            more = f" (the first {_LISTED} above)" if len(listed) > _LISTED else ""
            complain(f"{len(listed)} pictures {what}{more}")


def exit_status(outcome: Outcome) -> int:
    """Of a command that did what it could."""
    return SOME_REFUSED if outcome.refused or outcome.failed else 0
