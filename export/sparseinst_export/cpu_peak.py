"""What this CPU reaches at best: products in float32 and int8 by OpenVINO, bandwidth by copies, all on given threads.

The roof is a measured one, of the kernels that the engine has for its favourite shapes: no network can be faster on
them, and a data sheet's figure would blame the engine for clock and cores that the machine does not give.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparseinst_export.roofline import Peak

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS, SIDE = 256, 32  # of the convolutions: 3x3 and 1x1 on maps like those of the decoder
MEMORY, NEAR = 64 << 20, 1 << 20  # bytes of an array: far beyond every cache, and inside the last
LAYERS = 3
REPEATS = 16
MEASUREMENTS = 6  # ticks


@dataclass(frozen=True)
class Products:
    """Operations a second of one kind of product."""

    name: str
    quantised: bool
    operations: float


def measure_peak(threads: int = 1, tick: Callable[[], None] = lambda: None) -> tuple[Peak, tuple[Products, ...]]:
    """Measure; about ten seconds.

    Args:
        threads: that products and copies run on.
        tick: called after each of the `MEASUREMENTS`.

    Returns:
        The best of each, and all products by themselves.
    """
    kinds = []
    for quantised in (False, True):
        for kernel in (3, 1):
            model = _convolution(kernel, quantised)
            operations = LAYERS * 2 * CHANNELS * CHANNELS * kernel * kernel * SIDE * SIDE
            name = f"convolution {kernel}x{kernel}, {'int8' if quantised else 'float32'}"
            kinds.append(Products(name, quantised, operations / _best(_runner(model, threads), threads)))
            tick()
    memory = _copies(MEMORY, threads)
    tick()
    near = max(memory, _copies(NEAR, threads))
    tick()
    peak = Peak(
        name=f"this CPU, {threads} thread{'s' if threads > 1 else ''}",
        precision="fp32",
        operations=max(kind.operations for kind in kinds if not kind.quantised),
        quantised=max(kind.operations for kind in kinds if kind.quantised),
        bandwidth=memory,
        near=near,
        source="measured here",
    )
    return peak, tuple(kinds)


def _runner(model: onnx.ModelProto, threads: int) -> Callable[[], object]:
    import openvino  # noqa: PLC0415

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    core = openvino.Core()
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings).create_infer_request()
    maps = np.random.default_rng(0).random((1, CHANNELS, SIDE, SIDE), np.float32)
    return lambda: request.infer([maps])


def clock(threads: int) -> Callable[[], float]:
    """Seconds of processor time where one thread works, since others take none of it; else those of the clock."""
    return time.process_time if threads == 1 else time.perf_counter


def _best(run: Callable[[], object], threads: int) -> float:
    # The best and not the median: a peak is what the machine can do when nothing disturbs it.
    now = clock(threads)
    run()
    taken = []
    for _ in range(REPEATS):
        start = now()
        run()
        taken.append(now() - start)
    return min(taken)


def _convolution(kernel: int, quantised: bool) -> onnx.ModelProto:
    """Convolutions in a row, so that taking the maps in and giving them out weighs little."""
    rng = np.random.default_rng(1)
    constants = {"scale": np.float32(1 / 127), "zero": np.uint8(0), "even": np.int8(0)}
    nodes, name = [], "maps"
    for index in range(LAYERS):
        weight = rng.normal(size=(CHANNELS, CHANNELS, kernel, kernel)).astype(np.float32) / (kernel * CHANNELS)
        if quantised:
            constants[f"w{index}"] = np.clip(weight * 127, -127, 127).astype(np.int8)
            nodes += [
                helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"q{index}"]),
                helper.make_node("DequantizeLinear", [f"q{index}", "scale", "zero"], [f"d{index}"]),
                helper.make_node("DequantizeLinear", [f"w{index}", "scale", "even"], [f"v{index}"]),
            ]
        else:
            constants[f"v{index}"] = weight
        pads = [kernel // 2] * 4
        inputs = [f"d{index}" if quantised else name, f"v{index}"]
        name = f"maps{index}"
        nodes += [
            helper.make_node("Conv", inputs, [f"c{index}"], pads=pads),
            helper.make_node("Relu", [f"c{index}"], [name]),
        ]
    shape = [1, CHANNELS, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _copies(size: int, threads: int) -> float:
    """Bytes read and written a second by copies of arrays of `size` bytes, one pair for each thread."""
    pairs = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]
    rounds = max(1, (4 * MEMORY) // size)

    def copy(pair: tuple[np.ndarray, np.ndarray]) -> None:
        for _ in range(rounds):
            np.copyto(pair[1], pair[0])  # lets go of the interpreter's lock

    with ThreadPoolExecutor(threads) as pool:
        taken = _best(lambda: list(pool.map(copy, pairs)), threads)
    return 2 * size * rounds * threads / taken
