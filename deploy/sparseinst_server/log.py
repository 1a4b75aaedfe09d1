"""Read out of Triton's log why a server did not start."""

from __future__ import annotations

import re

# model_lifecycle.cc: failed to load 'NAME' version 1: Internal: ContractError: SENTENCE\n\nAt:\n  FILE(LINE): FUNCTION
FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.+)")
ERROR = re.compile(r"^(?:E\d+ .*?\] |error: )(?P<reason>.+)$", re.MULTILINE)
# What every start on a machine without a GPU says, and what never is the reason.
NOISE = re.compile(
    r"cuda|nvml|dcgm|gpu|unable to create stream|depends on .* which has no loaded version", re.IGNORECASE
)


def explain(text: str, lines: int = 12) -> str:
    """Why Triton failed: the models that did not load and their reasons, or else its errors, or the end of the log.

    Args:
        text: the whole log.
        lines: how many lines to give at most.
    """
    models = [f"{found['model']}: {_plain(found['reason'])}" for found in FAILED.finditer(text)]
    errors = [_plain(found["reason"]) for found in ERROR.finditer(text) if not NOISE.search(found["reason"])]
    ending = [
        line
        for line in text.splitlines()
        if line.strip() and not line.startswith(("+-", "|")) and not NOISE.search(line)
    ]
    chosen = models or errors or ending
    return "\n".join(dict.fromkeys(chosen[-lines:])) or "its log is empty"


def _plain(reason: str) -> str:
    """A reason without Triton's quoting, the place in the code and the words for its class."""
    sentence = reason.strip().strip('"').replace(r"\n", "\n").replace(r"\"", '"').split("\n\nAt:")[0]
    return re.sub(r"^(?:[A-Z][a-z ]+: )?(?:\w+Error: )?", "", sentence).strip()
