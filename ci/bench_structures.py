"""How to lay the way of a picture through Triton on a CPU: three structures and three ways in, in turn on one machine.

    .venv-serve/bin/python ci/bench_structures.py [--preset cpu-int8] [--rounds 10] [--repository DIR]

one process     `sparseinst` decodes, computes and draws masks, as the CPU presets serve it
BLS             `sparseinst` decodes and draws masks, and calls the network, a model of its own
ensemble        preprocess, network and postprocess, as on a GPU
two steps       network and postprocess: the client decodes and letterboxes, and that time is counted
engine          OpenVINO alone in this program, letterboxed pixels in: what all of it is compared with

Serves build/model_repository (`make bench` fills it) or another one of ours. One caller at a time for latency, some
at once for throughput.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import openvino as ov

from sparseinst_client import Client
from sparseinst_client.transport import connect
from sparseinst_export.layout import FRONT, NETWORK
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.decode import decode_letterboxed
from sparseinst_server import Doors, TritonServer

ROOT = Path(__file__).resolve().parents[1]
GRAPHS = {"cpu": "model.onnx", "cpu-int8": "model.int8.onnx"}

Way = Callable[[bytes], object]


@contextmanager
def structure(name: str, repository: Path, preset: str) -> Iterator[TritonServer]:
    """A server whose `sparseinst` is laid out so."""
    with tempfile.TemporaryDirectory(prefix="sparseinst-structures-") as scratch:
        models = Path(shutil.copytree(repository, Path(scratch) / "models"))
        if name == "ensemble":
            shutil.rmtree(models / FRONT / "configs")
        if name == "BLS":
            shutil.copyfile(ROOT / "ci" / "bls" / "model.py", models / FRONT / "1" / "model.py")
        with TritonServer(models, config_name=preset, doors=Doors(open=("shared-memory",))) as server:
            yield server


def engine(graph: Path, contract: Contract) -> Way:
    """OpenVINO as the presets run it, on pixels that are decoded beforehand."""
    core = ov.Core()
    settings = {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    decoded: dict[bytes, np.ndarray] = {}

    def run(picture: bytes) -> object:
        if picture not in decoded:
            decoded[picture] = decode_letterboxed(picture, contract.input_size, contract.pad_colour)[0][np.newaxis]
        return request.infer({contract.input.name: decoded[picture]}, share_inputs=True)

    return run


def two_steps(url: str, contract: Contract) -> Way:
    """The ensemble `sparseinst_pixels`, decoding included."""
    transport = connect(url)

    def run(picture: bytes) -> object:
        pixels, letterbox = decode_letterboxed(picture, contract.input_size, contract.pad_colour)
        size = np.array([[letterbox.height, letterbox.width]], np.int32)
        return transport.infer("sparseinst_pixels", {"pixels": pixels[np.newaxis], "image_size": size}, 30.0)

    return run


def main() -> int:
    """Measure all ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(GRAPHS), default="cpu", help="%(default)s")
    parser.add_argument("--repository", type=Path, default=ROOT / "build" / "model_repository", help="%(default)s")
    parser.add_argument("--rounds", type=int, default=10, help="%(default)s")
    parser.add_argument("--callers", type=int, default=8, help="at once, for throughput (%(default)s)")
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted((ROOT / "assets" / "scenes" / "images").glob("*.jpg"))]
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(structure(name, options.repository, options.preset))
            for name in ("one process", "BLS", "ensemble")
        }
        served = servers["one process"]
        clients = {name: stack.enter_context(Client(server.grpc_url)) for name, server in servers.items()}
        clients["one process, HTTP"] = stack.enter_context(Client(served.http_url))
        clients["one process, shared memory"] = stack.enter_context(Client(served.grpc_url, shared_memory=True))
        contract = clients["one process"].contract()
        ways: dict[str, Way] = {"engine": engine(options.repository / NETWORK / "1" / GRAPHS[options.preset], contract)}
        ways |= {name: client.segment for name, client in clients.items()}
        ways["two steps"] = two_steps(served.grpc_url, contract)
        latency, throughput = measure(
            ways, pictures, options.rounds, stack.enter_context(ThreadPoolExecutor(options.callers))
        )
    bare = statistics.median(latency["engine"])
    say = sys.stdout.write
    say(f"| {options.preset} | p50, ms | p90, ms | p50 to engine's | pictures/s, {options.callers} callers |\n")
    say("|---|---:|---:|---:|---:|\n")
    for name, values in latency.items():
        half, most = statistics.median(values), np.quantile(values, 0.9)
        rate = f"{statistics.median(throughput[name]):.1f}" if name in throughput else ""
        say(f"| {name} | {half:.1f} | {most:.1f} | {half / bare:.2f} | {rate} |\n")
    return 0


def measure(
    ways: dict[str, Way], pictures: list[bytes], rounds: int, pool: ThreadPoolExecutor
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of each picture with one caller, and pictures/s with several, by way; all in turn in each round."""
    latency: dict[str, list[float]] = {name: [] for name in ways}
    throughput: dict[str, list[float]] = {name: [] for name in ways if name != "engine"}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            for picture in pictures:
                start = time.perf_counter()
                way(picture)
                if turn:  # the first round warms up
                    latency[name].append(1000 * (time.perf_counter() - start))
        for name in throughput if turn % 3 == 0 else ():
            start = time.perf_counter()
            list(pool.map(ways[name], pictures * 3))
            throughput[name].append(3 * len(pictures) / (time.perf_counter() - start))
    return latency, throughput


if __name__ == "__main__":
    sys.exit(main())
