"""Where a request's processor time goes: a real Triton, one request at a time, the time of each of its processes.

    .venv-serve/bin/python ci/server_cpu.py --repository build/model_repository assets/scenes/images/*.jpg

Triton runs each instance of a Python model in a process of its own, so the kernel's account of the processes tells the
models apart. `tritonserver` itself receives, hands the tensors on between the models and answers. What the engine takes
of `sparseinst`, where all is one process, is measured with the same graph in this program.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import openvino as ov

from sparseinst_client import Client
from sparseinst_export.layout import NETWORK
from sparseinst_runtime.contract import Contract
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
        before, start = processes(server.pid), time.perf_counter()
        for i in range(options.requests):
            client.segment(pictures[i % len(pictures)])
        seconds = time.perf_counter() - start
        after = processes(server.pid)
    spent: dict[str, float] = {}
    for pid, (name, milliseconds) in after.items():
        spent[name] = spent.get(name, 0) + milliseconds - before.get(pid, (name, 0))[1]
    each = {name: milliseconds / options.requests for name, milliseconds in sorted(spent.items()) if milliseconds}
    engine = engine_milliseconds(options.repository, options.preset, options.requests)
    lines = [
        f"{options.requests} requests, {len(pictures)} pictures, {1000 * seconds / options.requests:.1f} ms each",
        "",
        "| process | processor time, ms/request |",
        "|---|---:|",
        *(f"| {name} | {milliseconds:.2f} |" for name, milliseconds in each.items()),
        f"| all together | {sum(each.values()):.2f} |",
        f"| the engine alone, in this program | {engine:.2f} |",
        f"| all but the engine | {sum(each.values()) - engine:.2f} |",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def engine_milliseconds(repository: Path, preset: str, runs: int) -> float:
    """Processor time of one picture in OpenVINO, with the graph of the preset and all cores, milliseconds."""
    folder = repository / NETWORK / "1"
    graph = folder / ("model.int8.onnx" if "int8" in preset else "model.onnx")
    size, core = Contract.load(folder / "contract.json").input.shape, ov.Core()
    settings = {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size), np.uint8)
    request.infer([pixels])
    start = time.process_time()
    for _ in range(runs):
        request.infer([pixels], share_inputs=True)
    return 1000 * (time.process_time() - start) / runs


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
