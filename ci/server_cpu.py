"""Where a request's processor time goes: a real Triton, one request at a time, the time of each of its processes.

    .venv-serve/bin/python ci/server_cpu.py --repository build/model_repository assets/scenes/images/*.jpg

Triton runs each instance of a Python model in a process of its own, so the kernel's account of the processes tells the
models apart. `tritonserver` itself receives, hands the tensors on between the models and answers.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from sparseinst_client import Client
from sparseinst_client.benchmark.server import difference, read_stages
from sparseinst_server import TritonServer

TICK = 1000 / os.sysconf("SC_CLK_TCK")  # milliseconds of what /proc/PID/stat counts


def main() -> int:
    """Measure and write a Markdown table to stdout."""
    parser = argparse.ArgumentParser(description="Processor time of the server for one request, by process.")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files, sent in turn")
    parser.add_argument("--repository", type=Path, default=Path("build/model_repository"))
    parser.add_argument("--preset", default="cpu", help="%(default)s")
    parser.add_argument("--requests", type=int, default=300, help="%(default)s")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in options.pictures]
    with (
        TritonServer(options.repository, config_name=options.preset) as server,
        Client(server.grpc_url) as client,
    ):
        for i in range(40):
            client.segment(pictures[i % len(pictures)])
        before, stages, start = processes(server.pid), read_stages(server.grpc_url), time.perf_counter()
        for i in range(options.requests):
            client.segment(pictures[i % len(pictures)])
        seconds = time.perf_counter() - start
        after = processes(server.pid)
        stages = difference(stages, read_stages(server.grpc_url))
    spent: dict[str, float] = {}
    for pid, (name, milliseconds) in after.items():
        spent[name] = spent.get(name, 0) + milliseconds - before.get(pid, (name, 0))[1]
    lines = [
        f"{options.requests} requests, {len(pictures)} pictures, {1000 * seconds / options.requests:.1f} ms each",
        "",
        "| process | processor time, ms/request | Triton's compute, ms/request |",
        "|---|---:|---:|",
    ]
    for name, milliseconds in sorted(spent.items()):
        compute = f"{stages[name].compute / options.requests:.2f}" if name in stages else ""
        lines.append(f"| {name} | {milliseconds / options.requests:.2f} | {compute} |")
    beyond = sum(milliseconds for name, milliseconds in spent.items() if name != "sparseinst_network")
    lines.append(f"| all but the network | {beyond / options.requests:.2f} | |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def processes(ancestor: int) -> dict[int, tuple[str, float]]:
    """All descendants of a process: what they are, and the milliseconds of processor time they have used."""
    found: dict[int, tuple[str, float]] = {}
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            pid, parents[int(folder.name)] = int(folder.name), int(fields[1])
            found[pid] = (_name(words), (int(fields[11]) + int(fields[12])) * TICK)

    def descends(pid: int) -> bool:
        return pid in parents and (parents[pid] == ancestor or descends(parents[pid]))

    return {pid: entry for pid, entry in found.items() if descends(pid)}


def _name(words: list[str]) -> str:
    """The model's name for a stub of the Python backend, the program's for others."""
    model = next((Path(word) for word in words if word.endswith("model.py")), None)
    return model.parents[1].name if model else Path(words[0]).name


if __name__ == "__main__":
    sys.exit(main())
