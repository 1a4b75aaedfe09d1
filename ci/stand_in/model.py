"""A stand-in for an engine on a GPU: it takes the time of one and computes nothing.

A batch of n takes `fixed_ms + n * each_ms`. As with Triton's TensorRT backend an instance hands a batch to the GPU and
is free for the next while that computes; it waits only where `ahead` of its batches are at the GPU already. Instances
share one GPU, which does one batch at a time: when it is free next is a number in a file that all of them map.
"""

from __future__ import annotations

import fcntl
import json
import queue
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.contract import Contract

DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}
FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One execution context of the GPU that is not there."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the time profile from the configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        number = {name: float(value["string_value"]) for name, value in parameters.items() if name != "contract"}
        self.fixed, self.each = number["fixed_ms"] / 1e3, number["each_ms"] / 1e3
        folder = Path(args["model_repository"], args["model_version"])
        self.contract = Contract.load(folder / "contract.json")
        self.gpu = (folder / "gpu").open("a+b", buffering=0)
        self.room = threading.Semaphore(int(number["ahead"]))
        self.batches: queue.SimpleQueue[tuple[float, list[Any]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Give a batch to the GPU."""
        sizes = [pb_utils.get_input_tensor_by_name(request, "image").shape()[0] for request in requests]
        self.room.acquire()
        end = self.reserve(self.fixed + self.each * sum(sizes))
        senders = [request.get_response_sender() for request in requests]
        self.batches.put((end, list(zip(senders, sizes, strict=True))))

    def reserve(self, seconds: float) -> float:
        """Take the GPU for so long, from when it is free; gives the time of the end."""
        fcntl.flock(self.gpu, fcntl.LOCK_EX)
        self.gpu.seek(0)
        free = struct.unpack("d", self.gpu.read(8) or bytes(8))[0]
        end = max(free, time.monotonic()) + seconds  # one clock for all processes of a machine
        self.gpu.truncate(0)
        self.gpu.write(struct.pack("d", end))
        fcntl.flock(self.gpu, fcntl.LOCK_UN)
        return end

    def answer(self) -> None:
        """Send each batch's answers when it is done."""
        while (batch := self.batches.get()) is not None:
            end, entries = batch
            time.sleep(max(0.0, end - time.monotonic()))
            self.room.release()
            for sender, size in entries:
                sender.send(pb_utils.InferenceResponse(self.nothing(size)), flags=FINAL)
            del batch, entries, sender

    def nothing(self, batch: int) -> list[Any]:
        """The contract's outputs, all zero."""
        return [
            pb_utils.Tensor(spec.name, np.zeros((batch, *spec.shape), DTYPES[spec.dtype]))
            for spec in self.contract.outputs
        ]

    def finalize(self) -> None:
        """Send what is left."""
        self.batches.put(None)
        self.thread.join()
