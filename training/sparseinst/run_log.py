"""What a training run tells: `log.jsonl`, TensorBoard and the progress bar, from the first process only."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from sparseinst.progress import Report, training_progress
from sparseinst_runtime.files import atomic_write

LOG = "log.jsonl"


class RunLog:
    """The log of one run: a line of JSON for each step and each evaluation, and the same numbers for TensorBoard.

    Args:
        folder: where it is written.
        active: whether this process writes; otherwise every method does nothing.
    """

    def __init__(self, folder: Path, active: bool) -> None:
        self.path, self.active = folder / LOG, active
        self._board: SummaryWriter | None = None
        self._progress: Report | None = None
        self._since = 0.0

    def begin(self) -> None:
        """Start an empty log."""
        if self.active:
            atomic_write(self.path, "")

    def rewind(self, iteration: int) -> None:
        """Drop the lines behind an iteration, and a last line that a kill cut off."""
        if not self.active:
            return
        lines = self.path.read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in rows if row["iteration"] <= iteration))

    @contextmanager
    def opened(self, console: Console, iteration: int, total: int) -> Iterator[None]:
        """While the run lasts: hold TensorBoard's file and the progress bar, from `iteration` on of `total`."""
        if not self.active:
            yield
            return
        # purge_step: TensorBoard forgets what a killed run wrote after its last state
        with (
            SummaryWriter(str(self.path.parent), purge_step=iteration + 1) as self._board,
            training_progress(console, total) as self._progress,
        ):
            self.go_on()
            yield

    def go_on(self) -> None:
        """Steps are timed from here: waiting for pictures counts, saving and evaluating do not."""
        self._since = time.perf_counter()

    def step(
        self,
        iteration: int,
        epoch: int,
        *,
        lr: float,
        losses: dict[str, float],
        gradient_norm: float,
        pictures: int,
    ) -> None:
        """A step of the optimiser over `pictures`; a gradient norm that is not finite (fp16 skips it) is null."""
        if self._board is None or self._progress is None:
            return
        norm = gradient_norm if math.isfinite(gradient_norm) else None
        rate = pictures / (time.perf_counter() - self._since)
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        scalars |= {"lr": lr, "gradient_norm": gradient_norm, "images_per_second": rate}
        with interrupt_afterwards():
            self.write({"iteration": iteration, "epoch": epoch, "lr": lr, **losses, "gradient_norm": norm})
            for name, value in scalars.items():
                self._board.add_scalar(name, value, iteration)
        self._progress(epoch, iteration, losses, rate)

    def evaluation(self, iteration: int, epoch: int, summary: dict[str, Any]) -> None:
        """The twelve numbers of an evaluation, after `epoch` epochs."""
        with interrupt_afterwards():
            self.write({"iteration": iteration, "epoch": epoch, "val": summary})
            if self._board is not None:
                self._board.add_scalar("val/mask_ap", summary["ap"], iteration)

    def write(self, row: dict[str, Any]) -> None:
        """Append a line."""
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


@contextmanager
def interrupt_afterwards() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, not inside.

    Raised inside the queue that TensorBoard's thread reads, it can lose that thread's wake-up; closing the board would
    then wait for two minutes.
    """
    if threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if waiting:
        signal.raise_signal(signal.SIGINT)
