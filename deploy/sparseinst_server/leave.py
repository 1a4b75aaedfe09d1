"""Leave by an exception when a signal says so, so that whatever was started is stopped on the way."""

from __future__ import annotations

import signal
import sys
from types import FrameType

STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOMENT = 0.05  # seconds, until a finalizer that took the exception is through


def leave_by_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise SystemExit(128 + number) in the main thread; only the first one counts.

    A signal may come while a finalizer runs, where Python drops every exception. Then it is raised again.
    """
    for number in STOPPED_BY:
        signal.signal(number, _leave)
    sys.unraisablehook = _leave_again


def _leave(number: int, _frame: FrameType | None) -> None:
    for other in STOPPED_BY:  # a second signal must not disturb the stop
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _leave_again(dropped: sys.UnraisableHookArgs) -> None:
    if not isinstance(dropped.exc_value, SystemExit):
        sys.__unraisablehook__(dropped)
        return
    status = dropped.exc_value.code

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(status)

    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, _MOMENT)
