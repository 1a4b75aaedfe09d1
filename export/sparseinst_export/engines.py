"""An exported graph as a function uint8 [B,H,W,3] -> scores [B,N], labels [B,N], masks [B,N,mh,mw], all NumPy.

That is what training's `evaluate` takes, so that every engine is judged by the code that judges the network itself.
Outputs come in the graph's order, which `onnx.check_signature` holds to the contract's. Each engine imports its library
when it is made: neither needs the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from sparseinst.evaluate import Engine


def onnxruntime_engine(graph: Path | bytes) -> Engine:
    """The graph in ONNX Runtime on the CPU; `graph` is an ONNX file or its bytes."""
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(session.run(None, {name: images}))

    return run


def openvino_engine(graph: Path | bytes) -> Engine:
    """The graph in OpenVINO on the CPU, in float32 as it is served; `graph` is an ONNX file or its bytes."""
    import openvino  # noqa: PLC0415

    # Left alone, OpenVINO takes bf16 on CPUs that have it, and the scores would differ from machine to machine.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(request.infer(images).to_tuple())  # copies: the next call does not change them

    return run


ENGINES: dict[str, Callable[[Path | bytes], Engine]] = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
