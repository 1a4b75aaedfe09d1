"""Which batching settings suit a GPU, measured on a real Triton with a stand-in for the engine.

    .venv-serve/bin/python ci/bench_settings.py [--json F]

The stand-in (ci/stand_in) takes 12 ms and 3 ms more for each picture, one batch at a time, and its tensors are small:
what is measured is Triton's scheduling, not a network. Ideal is what such a GPU could do at most: a full batch every
12 + 8 * 3 ms with many in flight, one picture every 15 ms with one.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sparseinst_client.benchmark.perf_analyzer import PerfAnalyzerError, find
from sparseinst_export.layout import FRONT, NETWORK, find_template
from sparseinst_export.repository import assemble
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write
from sparseinst_server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
FIXED_MS, EACH_MS, LARGEST = 12.0, 3.0, 8
IN_FLIGHT = (1, 4, 8, 16, 32)
CONTRACT = Contract(("thing",), (1,), input_size=(32, 32), max_instances=1, max_batch_size=LARGEST)
STAND_IN = """
instance_group [ { kind: KIND_CPU count: %(instances)d } ]
parameters { key: "fixed_ms" value { string_value: "%(fixed)s" } }
parameters { key: "each_ms" value { string_value: "%(each)s" } }
%(batching)s
"""
BATCHING = {
    "none": "",
    "at once": "dynamic_batching { }",
    "delay 2 ms": "dynamic_batching { max_queue_delay_microseconds: 2000 }",
    "delay 10 ms": "dynamic_batching { max_queue_delay_microseconds: 10000 }",
    "preferred 4, 8": "dynamic_batching { preferred_batch_size: [ 4, 8 ] }",
}


def ideal(in_flight: int) -> float:
    """Pictures a second that one such GPU could do with so many requests under way."""
    batch = min(in_flight, LARGEST)
    return 1000 * batch / (FIXED_MS + EACH_MS * batch)


@contextmanager
def stand_in(batching: str, instances: int, *options: str) -> Iterator[str]:
    """A server with the stand-in as its network, in the ensembles of a GPU; gives its gRPC URL.

    Args:
        batching: lines of the network's configuration.
        instances: of it.
        *options: more of Triton's own.
    """
    with tempfile.TemporaryDirectory(prefix="sparseinst-settings-") as scratch:
        folder = Path(scratch)
        (folder / "contract.json").write_text(CONTRACT.to_json())
        (folder / "model.onnx").write_bytes(b"no graph: the stand-in computes nothing")
        models = assemble(find_template(), folder / "model.onnx", folder / "contract.json", folder / "models")
        shutil.rmtree(models / FRONT / "configs")  # as on a GPU: the ensemble
        network = models / NETWORK
        (network / "1" / "model.py").write_bytes((ROOT / "ci" / "stand_in" / "model.py").read_bytes())
        config = network / "configs" / "cpu.pbtxt"
        tensors = config.read_text().split("# The file beside model.py")[0]  # name, backend, batch, inputs and outputs
        values = {"instances": instances, "batching": batching, "fixed": FIXED_MS, "each": EACH_MS}
        config.write_text(tensors + STAND_IN % values)
        with TritonServer(models, options=options) as server:
            yield server.grpc_url


def measure(batching: str, instances: int, seconds: float) -> dict[int, float]:
    """Pictures a second by requests under way."""
    with stand_in(batching, instances) as url, tempfile.TemporaryDirectory() as scratch:
        return {count: _level(url, count, seconds, Path(scratch)) for count in IN_FLIGHT}


def _level(url: str, in_flight: int, seconds: float, folder: Path) -> float:
    table = folder / "level.csv"
    table.unlink(missing_ok=True)
    said = subprocess.run(  # noqa: S603 - our own command
        [
            find(), "-m", NETWORK, "-u", urlsplit(url).netloc, "-i", "grpc", "--async",
            "--concurrency-range", str(in_flight), "--measurement-interval", str(round(1000 * seconds / 3)),
            "--stability-percentage", "999", "--max-trials", "3", "-f", str(table),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    rows = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    if not rows:
        raise PerfAnalyzerError(f"perf_analyzer gave no row: {(said.stdout + said.stderr).strip()[-300:]}")
    return float(rows[0]["Inferences/Second"])


def main() -> int:
    """Measure every setting in turn and print a table; the exit status is 0 when all ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="for each figure (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures there, too")
    options = parser.parse_args()
    rows = []
    say = sys.stdout.write
    say(f"pictures/s at {', '.join(map(str, IN_FLIGHT))} requests under way; in brackets the share of the ideal\n\n")
    say(f"| batching | instances | {' | '.join(map(str, IN_FLIGHT))} |\n|---|---|{'---|' * len(IN_FLIGHT)}\n")
    for instances in (1, 2):
        for name, batching in BATCHING.items():
            rates = measure(batching, instances, options.seconds)
            cells = (f"{rate:.0f} ({rate / ideal(count):.0%})" for count, rate in rates.items())
            say(f"| {name} | {instances} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
            rows.append({"batching": name, "instances": instances, "pictures_per_second": rates})
    say(f"| ideal | | {' | '.join(f'{ideal(count):.0f}' for count in IN_FLIGHT)} |\n")
    if options.json is not None:
        atomic_write(options.json, json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PerfAnalyzerError as error:
        sys.exit(str(error))
