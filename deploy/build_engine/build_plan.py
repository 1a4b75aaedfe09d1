"""Build the TensorRT plan of a network inside the image that serves it, on the GPU that will run it.

    docker run --rm --gpus all -v "$PWD:/here" -w /here nvcr.io/nvidia/tritonserver:YY.MM-py3 \
        python3 deploy/build_engine/build_plan.py --onnx build/mine/model.onnx --out build/mine/plans

It writes `model.8.9.plan` (8.9 being the GPU's compute capability), its report, contract.json and plans.json, which
`sparseinst-export repository --plans` reads. `sparseinst-export tensorrt` builds where it and the package tensorrt are
installed, else the image's trtexec with the same options. Nothing needs to be installed for the latter: this file uses
Python's own library only. Not verified on a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_image import BuildError, Gpu, find_gpu, server_version

TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")
ANNOUNCED = re.compile(r"\[TensorRT v(\d+)\]")  # trtexec's first line: 100300 is 10.3.0
HARDWARE = {"none": "none", "ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}
NEEDS = "import onnx, rich, tensorrt, sparseinst_export.tensorrt_build; print(tensorrt.__version__)"
USUAL_BATCH = 4


@dataclass(frozen=True)
class Network:
    """Shape of the graph's input and its largest batch, from contract.json beside it."""

    contract: Path
    name: str
    height: int
    width: int
    max_batch: int


def main(arguments: list[str] | None = None) -> int:
    """Build; 0 when a plan was written, 1 with a sentence on stderr."""
    options = parser().parse_args(arguments)
    try:
        build(options)
    except (BuildError, OSError) as error:
        sys.stderr.write(f"build_plan: {error}\n")
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line; its options are those of `sparseinst-export tensorrt`."""
    raw = argparse.RawDescriptionHelpFormatter
    command = argparse.ArgumentParser("build_plan.py", description=__doc__, formatter_class=raw)
    command.add_argument("--onnx", type=Path, required=True, metavar="M.onnx", help="graph, contract.json beside it")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the plans")
    command.add_argument("--batch-min", type=int, default=1, metavar="B", help="smallest batch (1)")
    command.add_argument("--batch-opt", type=int, metavar="B", help="batch to choose kernels for (4)")
    command.add_argument("--batch-max", type=int, metavar="B", help="largest batch (that of the contract)")
    command.add_argument("--timing-cache", type=Path, metavar="F", help="times of kernels, read if there, and written")
    command.add_argument("--hardware-compatibility", choices=tuple(HARDWARE), default="none")
    command.add_argument("--version-compatible", action="store_true", help="newer TensorRT runs it, too")
    command.add_argument("--workspace", type=int, metavar="MIB", help="most scratch memory in MiB")
    command.add_argument("--optimisation-level", type=int, choices=range(6), default=3, metavar="L", help="0 to 5 (3)")
    command.add_argument("--no-tf32", action="store_true", help="no TF32 for float32 products")
    command.add_argument("--by", choices=("python", "trtexec"), help="what builds (python where it can)")
    command.add_argument("--dry-run", action="store_true", help="say what would run; needs no GPU with the next two")
    command.add_argument("--compute-capability", metavar="8.9", help="with --dry-run: of a GPU that is not here")
    command.add_argument("--server-version", metavar="V", help="with --dry-run: of a server that is not here")
    return command


def build(options: argparse.Namespace) -> None:
    """Check graph, GPU and versions, build, and note the plan in plans.json."""
    if not options.dry_run and (options.compute_capability or options.server_version):
        raise BuildError("--compute-capability and --server-version go with --dry-run: a build takes those it finds")
    network = read_network(options.onnx)
    if not 1 <= options.batch_min <= usual_batch(options, network) <= largest_batch(options, network):
        sizes = f"{options.batch_min}, {usual_batch(options, network)}, {largest_batch(options, network)}"
        raise BuildError(f"batch sizes are {sizes}; wanted 1 <= smallest <= usual <= largest")
    gpu = find_gpu() if options.compute_capability is None else Gpu("not here", options.compute_capability, 0)
    server = options.server_version or server_version()
    plan = options.out / f"model.{gpu.capability}.plan"
    by = options.by or ("python" if python_version() is not None else "trtexec")
    fresh = plan.with_name(f".{plan.name}.{secrets.token_hex(6)}.tmp")
    if options.dry_run:
        to_run = python_command(options, plan, server) if by == "python" else trtexec_command(options, network, plan)
        say(shlex.join(to_run))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    say(f"TensorRT {server} serves; {gpu.name} has compute capability {gpu.capability}; built by {by}")
    if by == "python":
        if subprocess.run(python_command(options, plan, server), check=False).returncode:  # noqa: S603
            raise BuildError("sparseinst-export tensorrt built no plan; its message stands above")
    else:
        if options.timing_cache is not None:
            options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        try:
            run_trtexec(trtexec_command(options, network, fresh), server)
            report = report_of(options, network, gpu, server, plan=fresh, seconds=time.perf_counter() - start)
            fresh.replace(plan)
        finally:
            fresh.unlink(missing_ok=True)
        replace(plan.with_name(plan.name + ".json"), json.dumps(report, indent=2) + "\n")
        replace(options.out / "contract.json", network.contract.read_text(encoding="utf-8"))
    note_plan(options.out / "plans.json", gpu.capability, plan.name)
    say(f"{plan}: {plan.stat().st_size / 1e6:.1f} MB, noted in {options.out / 'plans.json'}")


def read_network(graph: Path) -> Network:
    """What the contract beside a graph says of its input; its side is one number or height and width."""
    path = graph.with_name("contract.json")
    if not graph.is_file():
        raise BuildError(f"no graph at {graph}; `sparseinst-export onnx` writes one")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        sides = raw["input_size"] if isinstance(raw["input_size"], list) else [raw["input_size"]] * 2
        height, width = (int(side) for side in sides)
        return Network(path, "image", height, width, int(raw["max_batch_size"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"no contract at {path} ({type(error).__name__}: {error}); export writes one beside it") from (
            error
        )


def python_version() -> str | None:
    """Version of the package tensorrt, where it and all that `sparseinst-export tensorrt` needs are installed."""
    ran = subprocess.run([sys.executable, "-c", NEEDS], capture_output=True, text=True, check=False)  # noqa: S603
    return ran.stdout.strip() if ran.returncode == 0 else None


def python_command(options: argparse.Namespace, plan: Path, server: str) -> list[str]:
    """The build by `sparseinst-export tensorrt`, which refuses to build with another version than the server's."""
    command = [
        sys.executable,
        "-m",
        "sparseinst_export.cli",
        "tensorrt",
        "--onnx",
        str(options.onnx),
        "--out",
        str(plan),
    ]
    command += ["--server-version", server, "--batch-min", str(options.batch_min)]
    command += ["--hardware-compatibility", options.hardware_compatibility]
    command += ["--optimisation-level", str(options.optimisation_level)]
    for name in ("batch_opt", "batch_max", "timing_cache", "workspace"):
        if (value := getattr(options, name)) is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    flags = {"--version-compatible": options.version_compatible, "--no-tf32": options.no_tf32}
    return command + [flag for flag, wanted in flags.items() if wanted]


def trtexec_command(options: argparse.Namespace, network: Network, plan: Path) -> list[str]:
    """The same build by trtexec; it times nothing afterwards."""
    sizes = {
        "min": options.batch_min,
        "opt": usual_batch(options, network),
        "max": largest_batch(options, network),
    }
    shapes = [
        f"--{which}Shapes={network.name}:{size}x{network.height}x{network.width}x3" for which, size in sizes.items()
    ]
    # TensorRT 11 is strongly typed in any case and takes the flag without effect.
    command = [
        shutil.which("trtexec") or str(TRTEXEC),
        f"--onnx={options.onnx}",
        f"--saveEngine={plan}",
        "--stronglyTyped",
    ]
    command += [*shapes, f"--builderOptimizationLevel={options.optimisation_level}"]
    command += [f"--hardwareCompatibilityLevel={HARDWARE[options.hardware_compatibility]}"]
    command += ["--profilingVerbosity=detailed", "--skipInference"]
    if options.timing_cache is not None:
        command.append(f"--timingCacheFile={options.timing_cache}")
    if options.workspace is not None:
        command.append(f"--memPoolSize=workspace:{options.workspace}M")
    flags = {"--versionCompatible": options.version_compatible, "--noTF32": options.no_tf32}
    return command + [flag for flag, wanted in flags.items() if wanted]


def run_trtexec(command: list[str], server: str) -> None:
    """Let trtexec build, and end it at once where it is of another version than the server."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603
        for line in process.stdout or ():
            sys.stdout.write(line)
            if (announced := ANNOUNCED.search(line)) and (found := trtexec_version(announced[1])) != server[
                : len(found)
            ]:
                process.terminate()
                raise BuildError(
                    f"trtexec is of TensorRT {found}, the server of {server}: Triton would refuse the plan"
                )
    if process.returncode:
        raise BuildError(f"trtexec ended with {process.returncode} and built no plan; its message stands above")


def trtexec_version(number: str) -> str:
    """10.3.0 from 100300, as trtexec announces itself."""
    value = int(number)
    return f"{value // 10000}.{value // 100 % 100}.{value % 100}"


def report_of(
    options: argparse.Namespace, network: Network, gpu: Gpu, server: str, *, plan: Path, seconds: float
) -> dict[str, Any]:
    """What `sparseinst-export tensorrt` would report, as far as it is known here; `plan_report.py` has the fields."""
    return {
        "tensorrt": server,
        "gpu": {"name": gpu.name, "compute_capability": gpu.capability, "memory": gpu.memory, "driver": "unknown"},
        "precision": None,
        "precisions": {},
        "profile": {
            "smallest": options.batch_min,
            "usual": usual_batch(options, network),
            "largest": largest_batch(options, network),
        },
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "tf32": not options.no_tf32,
        "optimisation_level": options.optimisation_level,
        "workspace_mib": options.workspace,
        "graph_sha256": hashlib.sha256(options.onnx.read_bytes()).hexdigest(),
        "weights_sha256": None,
        "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "plan_bytes": plan.stat().st_size,
        "device_memory": None,
        "build_seconds": round(seconds, 3),
        "notes": ["built by trtexec: precisions, layers and memory are not listed"],
        "layers": [],
    }


def note_plan(path: Path, capability: str, name: str) -> None:
    """Add a plan to plans.json: file name by compute capability."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    replace(path, json.dumps(dict(sorted((known | {capability: name}).items())), indent=2) + "\n")


def largest_batch(options: argparse.Namespace, network: Network) -> int:
    """What was asked for, else what the contract promises."""
    return network.max_batch if options.batch_max is None else int(options.batch_max)


def usual_batch(options: argparse.Namespace, network: Network) -> int:
    """What was asked for, else 4, within the other two."""
    within = max(options.batch_min, min(USUAL_BATCH, largest_batch(options, network)))
    return within if options.batch_opt is None else int(options.batch_opt)


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
