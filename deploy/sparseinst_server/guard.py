"""Run Triton for as long as standard input stays open, then stop it and remove all it leaves; run as a script.

    python guard.py GRACE PREFIX FOLDER PROGRAM ARGUMENTS...

Whoever starts the guard holds the other end of the pipe, and the kernel closes that end however its holder goes, also
by SIGKILL. Triton cannot do this itself: killed while it loads models, or crashed, it leaves its stubs running and
their shared memory in /dev/shm. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux


def main(grace: float, prefix: str, folder: Path, program: list[str]) -> int:
    """Run the program as its own session until standard input ends or it ends by itself.

    Args:
        grace: seconds between SIGTERM and SIGKILL.
        prefix: what the names of its shared memory begin with.
        folder: its working files, removed at the end.
        program: absolute path and arguments.

    Returns:
        The program's exit status, as a shell gives it: 128 + the signal that ended it.
    """
    triton = subprocess.Popen(program, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: triton.terminate())
    threading.Thread(target=_stop_at_end_of_input, args=(triton, grace), daemon=True).start()
    status = triton.wait()
    _kill_group(triton.pid)
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _stop_at_end_of_input(triton: subprocess.Popen[bytes], grace: float) -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock this thread would still hold when the interpreter ends
        pass
    triton.terminate()
    try:
        triton.wait(grace)
    except subprocess.TimeoutExpired:
        triton.kill()


def _kill_group(leader: int, patience: float = 5.0) -> None:
    """Kill what is left of a process group and see it gone; orphans cannot be waited for, only looked for."""
    deadline = time.monotonic() + patience
    with suppress(ProcessLookupError):  # the group is empty
        while time.monotonic() < deadline:
            os.killpg(leader, signal.SIGKILL)
            time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
