"""What an image of Triton has to build a plan with: its GPU and the TensorRT that serves. Not verified on a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BACKEND = Path("/opt/tritonserver/backends/tensorrt/libtriton_tensorrt.so")
IMAGE_VARIABLE = "TRT_VERSION"  # 11.1.0.106 in tritonserver:26.07-py3
VERSION = re.compile(r"\d+\.\d+\.\d+")


class BuildError(Exception):
    """What the user can help; the message says what was got, what was wanted and what to do."""


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of the GPU that will run the plan.

    Attributes:
        name: as NVIDIA sells it.
        capability: compute capability, as in "8.9".
        memory: in bytes.
    """

    name: str
    capability: str
    memory: int


def find_gpu() -> Gpu:
    """The GPU of this container: the first that CUDA_VISIBLE_DEVICES leaves, else number 0."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        raise BuildError(
            "no nvidia-smi here, so no GPU: start the container with --gpus all, on the machine that serves"
        )
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    query = [smi, f"--id={chosen}", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    ran = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
    parts = [part.strip() for part in ran.stdout.strip().split(",")]
    if ran.returncode or len(parts) != 3 or not re.fullmatch(r"\d+\.\d+", parts[1]):
        raise BuildError(
            f"nvidia-smi shows no GPU ({(ran.stderr or ran.stdout).strip()}); wanted one, as --gpus all gives"
        )
    return Gpu(parts[0], parts[1], int(parts[2]) << 20)


def server_version() -> str:
    """The TensorRT that Triton's backend is linked with, held against what the image says of itself."""
    said = VERSION.match(os.environ.get(IMAGE_VARIABLE, ""))
    linked = None
    if BACKEND.is_file() and (ldd := shutil.which("ldd")):
        linked = linked_version(subprocess.run([ldd, BACKEND], capture_output=True, text=True, check=False).stdout)  # noqa: S603
    if linked is None and said is None:
        raise BuildError(
            f"no TensorRT of a server here: neither {BACKEND} nor {IMAGE_VARIABLE}; "
            "run this inside the image that serves, nvcr.io/nvidia/tritonserver:YY.MM-py3"
        )
    if linked and said and linked != said.group():
        raise BuildError(
            f"Triton's backend is linked with TensorRT {linked}, the image says {said.group()}: one is foreign"
        )
    return linked or (said.group() if said else "")


def linked_version(listing: str) -> str | None:
    """10.3.0 from ldd's line on libnvinfer, whose file is called libnvinfer.so.10.3.0; None where it shows none."""
    line = re.search(r"libnvinfer\.so\.\d+\S* => (\S+)", listing)
    version = VERSION.search(Path(line[1]).resolve().name) if line else None
    return version.group() if version else None
