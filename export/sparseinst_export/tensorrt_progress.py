"""A build that shows where it is and can be stopped: TensorRT's phases as bars of rich, Ctrl-C as its cancellation."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

AWAKE = 0.2  # seconds between looks for an interrupt, should another thread have got the signal


class BuildInterruptedError(ExportError):
    """The build was stopped by Ctrl-C; nothing was written."""


def build_serialized(trt: Any, builder: Any, network: Any, config: Any, progress: Progress | None = None) -> Any:
    """Build a plan and show its phases.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        builder: its `Builder`.
        network: `INetworkDefinition`.
        config: `IBuilderConfig`; gets the monitor.
        progress: bars to show the phases in.

    Returns:
        `IHostMemory`, or None where TensorRT gave no plan; its log says why.

    Raises:
        BuildInterruptedError: an interrupt came; TensorRT has stopped.
    """
    stop = threading.Event()
    config.progress_monitor = _monitor(trt, stop, progress)
    # Python hears a signal between two lines of its main thread only. TensorRT frees the interpreter while it builds,
    # so the build gets a thread of its own and the main thread waits here, where it can hear.
    with _interrupts_to(stop), ThreadPoolExecutor(1, "tensorrt") as pool:
        building = pool.submit(builder.build_serialized_network, network, config)
        while wait([building], timeout=AWAKE).not_done:
            pass
    if stop.is_set():
        raise BuildInterruptedError("the build was interrupted; nothing was written")
    return building.result()


@contextmanager
def _interrupts_to(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `stop` and raises nothing: an exception could leave the builder running on what is thrown away."""
    if threading.current_thread() is not threading.main_thread():  # signals are not for this one
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, stop: threading.Event, progress: Progress | None) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """One bar for each phase that is open. TensorRT takes an exception in here for a cancellation."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.bars: dict[str, TaskID] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase of so many steps begins, within another or on its own."""
            if progress is not None:
                self.bars[phase_name] = progress.add_task(phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step, counted from 0, is done; False stops the build."""
            if progress is not None and phase_name in self.bars:
                progress.update(self.bars[phase_name], completed=step + 1)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends, early where the build was stopped."""
            if progress is not None and phase_name in self.bars:
                progress.remove_task(self.bars.pop(phase_name))

    return Monitor()
