"""The network on a CPU: an ONNX graph of ours, run by OpenVINO. For the model repository; needs openvino.

Threads share the compiled graph, each through an infer request of its own: the outputs of a request are its own memory
until its next inference, so masks are read where they lie, never copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from sparseinst_runtime.contract import Contract, ContractError, TensorSpec
from sparseinst_runtime.triton import Arrays, ModelArguments

OPENVINO_TYPES = {"UINT8": "u8", "INT32": "i32", "FP32": "f32"}
REPAIR = "export the weights again with `sparseinst-export onnx` and `sparseinst-export repository`"


class Engine:
    """The graph that a model's configuration names, compiled by the configuration's parameters.

    Parameters of the configuration: `graph`, the file; `streams`, how many pictures are computed at a time, each on an
    equal share of the cores, a number or `cores` for one on each; `precision`, OpenVINO's INFERENCE_PRECISION_HINT.

    Raises:
        ContractError: a parameter is missing or no number, or graph and contract disagree.

    Attributes:
        streams: pictures that are computed at a time.
        threads: that compute one picture.
    """

    def __init__(self, arguments: ModelArguments) -> None:
        cores = len(os.sched_getaffinity(0))  # those this process may use
        self.streams = cores if arguments.parameter("streams") == "cores" else arguments.number("streams")
        self.threads = max(cores // self.streams, 1)
        contract, path, core = arguments.contract, arguments.graph(), ov.Core()
        try:
            graph = core.read_model(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before name places in OpenVINO's code
            raise ContractError(f"{path.name} is no graph that OpenVINO reads: {reason}; {REPAIR}") from error
        check_graph(graph, contract, path.name)
        settings = {
            "NUM_STREAMS": str(self.streams),
            "INFERENCE_NUM_THREADS": str(self.threads * self.streams),
            "INFERENCE_PRECISION_HINT": arguments.parameter("precision"),
        }
        self._compiled = core.compile_model(graph, "CPU", settings)
        self._input = contract.input
        self._outputs = [spec.name for spec in contract.outputs]

    def request(self) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
        """A function for one thread: from the contract's input by name, uint8 [B, S, S, 3], to its outputs by name.

        What it gives, each with B in front, is overwritten by its next call. It holds no interpreter lock meanwhile.
        """
        request = self._compiled.create_infer_request()

        def infer(inputs: Arrays) -> dict[str, NDArray[Any]]:
            pixels = inputs[self._input.name]
            results = request.infer({self._input.name: pixels}, share_inputs=True, share_outputs=True)
            return {name: results[name] for name in self._outputs}

        infer(
            {self._input.name: np.zeros((1, *self._input.shape), np.uint8)}
        )  # the first one allocates: not a client's
        return infer


def check_graph(graph: ov.Model, contract: Contract, name: str) -> None:
    """Raise ContractError unless the graph takes and gives what the contract says, for every batch size.

    Args:
        graph: read by OpenVINO.
        contract: of this version.
        name: what the graph is called in the message.
    """
    wanted = [contract.input, *contract.outputs]
    ports = {name: port for port in [*graph.inputs, *graph.outputs] for name in port.get_names()}
    for spec in wanted:
        if spec.name not in ports:
            raise ContractError(f"{name} has no tensor {spec.name}, only {sorted(ports)}; {REPAIR}")
        got = describe(ports[spec.name])
        if got != wanted_of(spec):
            raise ContractError(f"{name} has {spec.name} {got}; contract.json wants {wanted_of(spec)}; {REPAIR}")


def describe(port: Any) -> str:
    """`u8[?,320,320,3]`: element type and shape of a graph's input or output."""
    return f"{port.get_element_type().get_type_name()}{port.get_partial_shape()}"


def wanted_of(spec: TensorSpec) -> str:
    """The same text for a tensor of the contract, with any batch size."""
    return f"{OPENVINO_TYPES[spec.dtype]}[?,{','.join(map(str, spec.shape))}]"
