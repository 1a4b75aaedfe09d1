"""A stand-in for an engine on a GPU: it takes the time of one and computes nothing.

A batch of n takes `fixed_ms + n * each_ms`. Instances share one GPU, so one batch runs at a time: a lock on a file that
all of them open, whose holder sleeps.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.contract import Contract

DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8}


class TritonPythonModel:
    """One execution context of the GPU that is not there."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the time profile from the configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.fixed, self.each = (float(parameters[name]["string_value"]) / 1e3 for name in ("fixed_ms", "each_ms"))
        folder = Path(args["model_repository"], args["model_version"])
        self.contract = Contract.load(folder / "contract.json")
        self.gpu = (folder / "model.py").open("rb")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch after its time."""
        pictures = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        fcntl.flock(self.gpu, fcntl.LOCK_EX)
        time.sleep(self.fixed + self.each * sum(map(len, pictures)))
        fcntl.flock(self.gpu, fcntl.LOCK_UN)
        return [pb_utils.InferenceResponse(self.nothing(len(picture))) for picture in pictures]

    def nothing(self, batch: int) -> list[Any]:
        """The contract's outputs, all zero."""
        return [
            pb_utils.Tensor(spec.name, np.zeros((batch, *spec.shape), DTYPES[spec.dtype]))
            for spec in self.contract.outputs
        ]
