"""A stopwatch with laps that waits for the GPU, for the benchmarks: where does the time of a repetition go?

Wall clock and processor time side by side: on a machine that does something else too, the processor time of all threads
says more. Waiting at the end of every lap keeps a GPU from working on two parts at once, so laps are upper bounds.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Lap:
    """What a part of one repetition took, in seconds.

    Attributes:
        wall: by the clock.
        processor: of all threads of this process, which waiting for a GPU can be part of.
    """

    wall: float = 0.0
    processor: float = 0.0


class Stopwatch:
    """Laps of repetitions, by name; laps of one name in one repetition add up."""

    def __init__(self, device: torch.device) -> None:
        self.repetitions: list[dict[str, Lap]] = []
        self._wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._wall = self._processor = 0.0

    def start(self) -> None:
        """Begin a repetition."""
        self.repetitions.append({})
        self._wait()
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def lap(self, part: str) -> None:
        """What went by since `start` or the last lap belongs to `part`."""
        self._wait()
        wall, processor = time.perf_counter(), time.process_time()
        lap = self.repetitions[-1].setdefault(part, Lap())
        lap.wall += wall - self._wall
        lap.processor += processor - self._processor
        self._wall, self._processor = wall, processor

    def medians(self, warmup: int) -> dict[str, Lap]:
        """Each part's median over all repetitions but the first `warmup`, in seconds."""
        counted = self.repetitions[warmup:]
        return {
            part: Lap(
                statistics.median(laps[part].wall for laps in counted),
                statistics.median(laps[part].processor for laps in counted),
            )
            for part in counted[0]
        }


def machine(device: torch.device) -> dict[str, Any]:
    """What figures are to be quoted with: processor, threads, GPU and versions."""
    described: dict[str, Any] = {
        "torch": torch.__version__,
        "processor": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        described |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }
    return described


def _processor() -> str:
    """The processor's name, where the system gives it away."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
