"""sparseinst_network on a CPU: letterboxed pixels go through the ONNX graph, run by OpenVINO."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from sparseinst_runtime.deferred import Deferred
from sparseinst_runtime.metrics import QUEUED, Metrics
from sparseinst_runtime.openvino_engine import Engine
from sparseinst_runtime.triton import ModelArguments


class TritonPythonModel:
    """One process of Triton's Python backend; `configs/cpu.pbtxt` says how it computes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph that the config names; raises ContractError when graph, contract and config disagree."""
        arguments = ModelArguments(args)
        contract = arguments.contract
        arguments.check(inputs=[contract.input], outputs=contract.outputs)
        engine = Engine(arguments)
        requests = [engine.request() for _ in range(engine.streams)]
        metrics = Metrics(pb_utils, args, *QUEUED)
        self.deferred = Deferred(pb_utils, requests, arguments.number("longest_wait_ms") / 1000, metrics)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; threads answer them, every request by itself: a CPU gains nothing from joining them."""
        self.deferred.take(requests)

    def finalize(self) -> None:
        """Answer what was taken."""
        self.deferred.finish()
