"""What the figures were taken on: figures without it say nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

PACKAGES = ("sparseinst", "tritonclient", "grpcio", "numpy", "openvino", "nvidia-pytriton")


def describe(url: str) -> dict[str, str]:
    """Hardware and versions of this machine, and how busy it was before anything was sent.

    Args:
        url: of the server, to say whether it runs on this machine and shares its cores with the load generator.
    """
    local = urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
    facts = {
        "client's machine": f"{processor()}, {usable_cores()} usable cores, {memory()}",
        "server's place": "this machine: client and server share its cores" if local else "another machine",
        "system": f"{platform.system()} {platform.release()}, {platform.python_implementation()} "
        f"{platform.python_version()}",
        "packages": ", ".join(found for found in map(_package, PACKAGES) if found),
        "load average before": f"{os.getloadavg()[0]:.2f} over one minute",
    }
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    models = [line.split(":", 1)[1].strip() for gpu in gpus for line in gpu.read_text().splitlines() if "Model" in line]
    return facts | ({"GPUs": ", ".join(models)} if models else {})


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory() -> str:
    """Memory of the machine."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{size / 2**30:.0f} GiB of memory"


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""
