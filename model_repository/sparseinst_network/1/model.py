"""sparseinst_network on a CPU: letterboxed pixels go through the ONNX graph, run by OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.contract import Contract, ContractError, TensorSpec
from sparseinst_runtime.triton import ModelArguments, respond

OPENVINO_TYPES = {"UINT8": "u8", "INT32": "i32", "FP32": "f32"}
REPAIR = "export the weights again with `sparseinst-export onnx` and `sparseinst-export repository`"


class TritonPythonModel:
    """One process of Triton's Python backend; `configs/cpu.pbtxt` says how many there are."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph that the config names; raises ContractError when graph, contract and config disagree."""
        arguments = ModelArguments(args)
        contract = arguments.contract
        arguments.check(inputs=[contract.input], outputs=contract.outputs)
        core, path = ov.Core(), arguments.graph()
        try:
            graph = core.read_model(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]  # the lines before name places in OpenVINO's code
            raise ContractError(f"{path.name} is no graph that OpenVINO reads: {reason}; {REPAIR}") from error
        check_graph(graph, contract, path.name)
        engine = core.compile_model(
            graph,
            "CPU",
            {
                "PERFORMANCE_HINT": arguments.parameter("hint"),
                "INFERENCE_NUM_THREADS": arguments.parameter("threads"),
                "INFERENCE_PRECISION_HINT": arguments.parameter("precision"),
            },
        )
        self.outputs = [spec.name for spec in contract.outputs]
        self.engine = engine.create_infer_request()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request by itself; a CPU gains nothing from joining them."""
        return respond(pb_utils, requests, self.infer)

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`image` uint8 [B, S, S, 3] -> the contract's outputs, each with B in front."""
        results = self.engine.infer({"image": inputs["image"]}, share_inputs=True)
        return {name: results[name] for name in self.outputs}


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
