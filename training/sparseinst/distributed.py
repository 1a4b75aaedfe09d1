"""Training in several processes, one for each GPU, as torchrun starts them; a process on its own is a world of one.

Gradients travel through DistributedDataParallel. Everything else (counts, loss terms, waiting for an evaluation) goes
through a gloo group of its own: it needs no GPU, and waits longer than a watchdog over gradients should.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=2)  # how long processes wait for the first one to evaluate
MOMENT = 2.0  # seconds; what ended another process (Ctrl-C, torchrun) mostly ends this one within them
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one training, seen from one of them; methods are to be called by all of them in the same order.

    Attributes:
        rank: number of this process, from 0; the first one writes, logs and evaluates.
        size: number of processes.
        local_rank: number of this process on its machine, and of its GPU.
        control: group for everything but gradients; None in a world of one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes of each of these numbers, in float64; what is not finite stays so."""
        numbers = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            distributed.all_reduce(numbers, group=self.control)
        return numbers.tolist()

    def gather(self, value: T) -> list[T]:
        """What each process has, in the order of ranks; anything that can be pickled."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value, group=self.control)
        return values

    def share(self, value: T) -> T:
        """What the first process has; the others wait for it."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier(group=self.control)

    def together(self, work: Callable[[], T]) -> T:
        """Do the same work in every process; where it fails, only the first process that failed raises and tells.

        Raises:
            Exception: what `work` raised.
            SystemExit: status 1, in the other processes.
        """
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        failures = self.gather(failure is not None)
        if any(failures):
            if failure is None or failures.index(True) != self.rank:
                self.leave_quietly()
            raise failure
        return result

    def leave_quietly(self) -> NoReturn:
        """Exit with status 1 once another process has told why and has gone, or torchrun says so."""
        with suppress(RuntimeError):
            self.wait()
        raise SystemExit(1)

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model for forward passes: its gradients are averaged over the processes in the backward pass.

        It is to be made anew when other parameters learn; weights and buffers of the first process become everybody's.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Passes inside add to the gradients of their own process only; the next one outside exchanges their sum."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def device_of(name: str | None, world: World) -> str | None:
    """The device of this process: with several processes, the GPU of its own number.

    Raises:
        ValueError: one GPU was named for several processes, or there are fewer GPUs than processes.
    """
    if world.size == 1:
        return name
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda:"):
        raise ValueError(f"--device {name} with {world.size} processes; wanted cuda (each takes its own GPU) or cpu")
    if name != "cuda":
        return name
    if world.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {world.local_rank} of this machine has no GPU ({torch.cuda.device_count()} are there); "
            "lower --nproc-per-node"
        )
    return f"cuda:{world.local_rank}"


@contextmanager
def joined(device: str | None) -> Iterator[World]:
    """The world that torchrun started this process in; a world of one without torchrun.

    Args:
        device: what --device says; CUDA exchanges gradients by nccl, anything else by gloo.

    Raises:
        ValueError: see `device_of`.
        ConnectionError: another process is gone.
    """
    if any(name not in os.environ for name in TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        yield World()
        return
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    own = device_of(device, World(rank, size, local_rank)) or "cpu"
    if own.startswith("cuda"):
        torch.cuda.set_device(own)
    try:
        with _other_processes_may_go(rank, size):
            distributed.init_process_group("nccl" if own.startswith("cuda") else "gloo")
            world = World(rank, size, local_rank, distributed.new_group(backend="gloo", timeout=PATIENCE))
            yield world
            world.wait()  # the first one may still be writing
    except KeyboardInterrupt:
        if rank:
            raise SystemExit(130) from None  # the first process says it for all
        raise
    # Not after a failure: it could wait for processes that are gone.
    distributed.destroy_process_group()


@contextmanager
def _other_processes_may_go(rank: int, size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        time.sleep(MOMENT)
        if rank:
            raise SystemExit(1) from None
        raise ConnectionError(
            f"another of the {size} processes is gone; what it printed says why. Go on with --resume"
        ) from error
