"""What the models report of themselves: one JSON object a line on standard error, which Triton shares with them.

Whoever keeps the server's output sees them, and what somebody sent is never among them: a failure is told by the kind
of its exception and the lines of code it came through, not by its message, which may quote a request.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path

LONGEST_TEXT = 200  # characters of any one value; a line stays below what a pipe takes at once
DEEPEST = 12  # innermost frames that are told
UNUSUAL = re.compile(r"[^\w.:@/-]", re.ASCII)


def failure(event: str, error: BaseException, **context: str) -> None:
    """Write a line about an exception that was caught.

    Args:
        event: what happened, in one word, such as `request_failed`.
        error: the exception; its message is left out.
        **context: what else helps to find it: model, version, request_id. Characters that no name has become "?".
    """
    frames = traceback.extract_tb(error.__traceback__)[-DEEPEST:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]
    told = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": "error",
        "event": event,
        **{name: UNUSUAL.sub("?", value)[:LONGEST_TEXT] for name, value in context.items()},
        "error": type(error).__name__,
        "at": [line[:LONGEST_TEXT] for line in lines],
    }
    sys.stderr.write(json.dumps(told) + "\n")
    sys.stderr.flush()
