"""The progress bar of a training run: loss terms, pictures per second, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[int, int, dict[str, float], float], None]


@contextmanager
def training_progress(console: Console, total: int) -> Iterator[Report]:
    """Yield a function report(epoch, iteration, losses, pictures per second) that moves the bar.

    Where the console is not a terminal, a line is printed now and then instead.
    """
    every = max(total // 200, 1)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("train", total=total, epoch=0, losses="")

        def report(epoch: int, iteration: int, losses: dict[str, float], rate: float) -> None:
            words = " ".join(f"{name} {value:.3f}" for name, value in losses.items()) + f" | {rate:.1f} img/s"
            bar.update(task, completed=iteration, epoch=epoch, losses=words)
            if not console.is_terminal and iteration % every == 0:
                console.print(f"epoch {epoch} step {iteration}/{total} {words}", soft_wrap=True)

        yield report
