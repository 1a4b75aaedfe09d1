"""A stand-in for an engine on a GPU: it takes the time of one and computes nothing.

A batch of n takes `fixed_ms + n * each_ms`. Instances share one GPU, which does one batch at a time: when it is free is
a number in a file that all of them map. A thread sends the answers, as in Triton's TensorRT backend, so that the next
batch need not wait for that.
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
        self.batches: queue.SimpleQueue[list[tuple[Any, int]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take the time of a batch."""
        sizes = [pb_utils.get_input_tensor_by_name(request, "image").shape()[0] for request in requests]
        senders = [request.get_response_sender() for request in requests]
        end = self.reserve(self.fixed + self.each * sum(sizes))
        time.sleep(max(0.0, end - time.monotonic()))
        self.batches.put(list(zip(senders, sizes, strict=True)))

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
        """Send the answers of batches that are done."""
        while (batch := self.batches.get()) is not None:
            for sender, size in batch:
                sender.send(pb_utils.InferenceResponse(self.nothing(size)), flags=FINAL)
            del batch, sender

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
