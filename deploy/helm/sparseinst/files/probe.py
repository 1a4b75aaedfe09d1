"""Does the Triton of this container work? Kubernetes' probes ask; exit status 0 says yes, 1 no, with a sentence.

    python3 probe.py http://127.0.0.1:8000 http://127.0.0.1:8002/metrics

A Triton that lost a process of a Python model may go on to call itself ready, so a small picture goes all the way
through. A server that turns the picture away because it is full works: to restart it, or to send its load to others,
would make everything worse. It has to show that it finishes somebody's work, though: the queue of one that hangs is
full, too. Python's own library only, since it runs every few seconds.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

MODEL = "sparseinst"
# A grey PNG of 32 x 32 pixels.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAFklEQVR42mNoIAAYRhWMKhhVMFIVAABCAAAfN5c2AAAAAABJRU5ErkJggg=="
)
PATIENCE = 4.0  # seconds for the picture; the queue turns away sooner what it cannot serve
PROGRESS = 3.0  # seconds within which a full server has to finish a request; both fit into the probes' timeoutSeconds
DEAD_STUB = re.compile(r"\(triton_python_b\) Z")  # /proc/PID/stat keeps 15 letters of triton_python_backend_stub
FINISHED = re.compile(r"^nv_inference_request_success\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """What is wrong, in words; `busy` where too much work may be all that it is."""

    sentence: str
    busy: bool = False


def main(server: str, metrics: str) -> int:
    """Probe; gives the exit status."""
    problem = lost_processes() or unanswered(server)
    if problem and problem.busy and finishes_requests(metrics):
        return 0
    if problem:
        sys.stderr.write(f"{problem.sentence}\n")
        return 1
    return 0


def lost_processes() -> Problem | None:
    """Triton waits for the stubs that it stops itself, so a dead one that nobody waited for is one it lost."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if DEAD_STUB.search(status.read_text()):
                return Problem("a process of a Python model is gone")
        except OSError:  # ended while we looked
            continue
    return None


def unanswered(server: str) -> Problem | None:
    """Send the picture; gives what came instead of an answer."""
    tensor = struct.pack("<I", len(PICTURE)) + PICTURE
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [1, 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ],
            "outputs": [{"name": "count"}],
        }
    ).encode()
    request = urllib.request.Request(  # noqa: S310 - http, from the chart
        f"{server}/v2/models/{MODEL}/infer",
        data=head + tensor,
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - as above
            count = json.load(reply)["outputs"][0]
    except urllib.error.HTTPError as error:
        said = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
        return Problem(said, busy=error.code == 503)
    except TimeoutError:
        return Problem(f"no answer to a picture within {PATIENCE:g} s", busy=True)
    except (OSError, ValueError, LookupError) as error:
        return Problem(f"no answer to a picture: {error}")
    return None if count.get("name") == "count" else Problem(f"a strange answer to a picture: {count}")


def finishes_requests(metrics: str) -> bool:
    """Whether Triton's counters of finished requests move."""
    deadline, before = time.monotonic() + PROGRESS, None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(metrics, timeout=PROGRESS) as reply:  # noqa: S310 - as above
                finished = sum(map(float, FINISHED.findall(reply.read().decode())))
        except OSError:
            return False
        if before is not None and finished > before:
            return True
        before = finished
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
