"""A node's plan from a volume that keeps them, built on its own GPU the first time; run before a container serves.

    python3 cached_plan.py --onnx /model/model.onnx --cache /engines

A folder of the cache holds the plan of one graph for one kind of GPU, one TensorRT and one set of options, and its name
says which. It appears whole or not at all, whoever finds it holds it against its checksum, and several containers that
want the same plan build it once. Standard output gets the path of its plans.json; all else goes to standard error.
Options after `--` go to build_plan.py. Python's own library only. Not verified on a GPU.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from triton_image import BuildError, Gpu, find_gpu, server_version

BUILD_PLAN = Path(__file__).with_name("build_plan.py")


@dataclass(frozen=True)
class Wanted:
    """What a plan is for; another value of any field is another plan.

    Attributes:
        gpu: as NVIDIA sells it.
        compute_capability: "8.9".
        tensorrt: version that the server runs.
        graph: SHA-256 of the ONNX file.
        contract: SHA-256 of the contract beside it, that names the sizes.
        builder: SHA-256 of build_plan.py.
        options: for build_plan.py.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    graph: str
    contract: str
    builder: str
    options: tuple[str, ...]

    @property
    def folder(self) -> str:
        """`8.9-nvidia-l40s-tensorrt11.1.0-3f2a9c0d51e7`."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        name = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{self.compute_capability}-{name}-tensorrt{self.tensorrt}-{digest}"


def main(arguments: list[str] | None = None) -> int:
    """Find or build; 0 with the path on stdout, 1 with a sentence on stderr."""
    options = parser().parse_args(arguments)
    try:
        plans = cached(options.onnx, options.cache, tuple(options.options), options.timeout)
    except (BuildError, OSError) as error:
        say(str(error))
        return 1
    sys.stdout.write(f"{plans}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        "cached_plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="graph, contract.json beside it")
    command.add_argument("--cache", type=Path, required=True, metavar="DIR", help="folder that keeps plans")
    command.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="seconds for a build (%(default)g)")
    command.add_argument("options", nargs="*", metavar="OPTION", help="after --: for build_plan.py")
    return command


def cached(graph: Path, cache: Path, options: tuple[str, ...], timeout: float) -> Path:
    """The plans.json of a sound plan for this node.

    Args:
        graph: ONNX file with contract.json beside it.
        cache: is made if it is not there.
        options: for build_plan.py.
        timeout: seconds for a build; to wait for somebody else's takes no longer than theirs.

    Raises:
        BuildError: no GPU, another TensorRT than the server's, or a build that failed; BuildError says what to do.
    """
    wanted = wanted_of(graph, options, find_gpu(), server_version())
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / wanted.folder
    with locked(cache / f".{wanted.folder}.lock"):
        problem = problem_of(folder, wanted)
        if problem is None:
            say(f"taken from the cache: {folder.name}")
            return folder / "plans.json"
        say(f"{folder.name}: {problem}; building it, which takes minutes")
        shutil.rmtree(folder, ignore_errors=True)
        build(graph, folder, wanted, timeout)
    return folder / "plans.json"


def wanted_of(graph: Path, options: tuple[str, ...], gpu: Gpu, tensorrt: str) -> Wanted:
    """What this node needs for a graph; raises BuildError where the graph or its contract is missing."""
    digests = {}
    for path in (graph, graph.with_name("contract.json"), BUILD_PLAN):
        if not path.is_file():
            raise BuildError(f"no file at {path}; wanted the folder that `sparseinst-export onnx` wrote")
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wanted(
        gpu=gpu.name,
        compute_capability=gpu.capability,
        tensorrt=tensorrt,
        graph=digests[graph.name],
        contract=digests["contract.json"],
        builder=digests[BUILD_PLAN.name],
        options=options,
    )


def problem_of(folder: Path, wanted: Wanted) -> str | None:
    """Why a cached plan cannot be taken: what its own report says does not hold. None for a sound one."""
    if not folder.is_dir():
        return "no such plan yet"
    try:
        plan = folder / json.loads((folder / "plans.json").read_text(encoding="utf-8"))[wanted.compute_capability]
        report = json.loads(plan.with_name(plan.name + ".json").read_text(encoding="utf-8"))
        found = report["tensorrt"], report["gpu"]["compute_capability"], report["graph_sha256"], report["plan_sha256"]
        digest = hashlib.sha256(plan.read_bytes()).hexdigest()
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"the plan in the cache is damaged ({type(error).__name__})"
    if found != (wanted.tensorrt, wanted.compute_capability, wanted.graph, digest):
        return "the plan in the cache is not what its name says"
    return None


def build(graph: Path, folder: Path, wanted: Wanted, timeout: float) -> None:
    """Build beside the folder, hold the plan against its report, give it its name."""
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
    command = [sys.executable, str(BUILD_PLAN), "--onnx", str(graph), "--out", str(fresh), *wanted.options]
    try:
        ran = subprocess.run(command, stdout=sys.stderr, timeout=timeout, check=False)  # noqa: S603 - our own command
        if ran.returncode:
            raise BuildError("build_plan.py built no plan; its message stands above")
        (fresh / "wanted.json").write_text(json.dumps(asdict(wanted), indent=2) + "\n", encoding="utf-8")
        if problem := problem_of(fresh, wanted):
            raise BuildError(f"what was just built cannot be taken: {problem}")
        fresh.replace(folder)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"no plan within {timeout:g} s; give the build more time, or the node a free GPU") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file that one process at a time can hold; the kernel lets go of it for whoever is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("somebody else builds this plan; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"cached_plan: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
