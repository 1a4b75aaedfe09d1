"""Scales, integer weights and corrected biases of a graph's convolutions, from pictures, by NNCF.

NNCF sees which numbers occur before each convolution, chooses ranges, and moves each bias by what rounding shifts the
layer's mean output. Only its numbers are taken: where Q/DQ pairs go is decided in `qdq`, layer by layer, so that any
choice of layers can be tried without calibrating again.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparseinst_export.layer_groups import Layer

INT8_MAX = 127


@dataclass(frozen=True, eq=False)
class Quantised:
    """A convolution's numbers.

    Attributes:
        scale: float32 of its input, a scalar or one for each channel.
        zero_point: int8 or uint8, of the same shape.
        weight: int8 [C_out, C_in/groups, kh, kw].
        weight_scale: float32 [C_out]; the zero point of weights is 0.
        bias: float32 [C_out].
    """

    scale: np.ndarray
    zero_point: np.ndarray
    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray


def calibrate(model: onnx.ModelProto, layers: Sequence[Layer], pictures: Sequence[np.ndarray]) -> dict[str, Quantised]:
    """Numbers for every layer, by its node.

    Args:
        model: a folded graph.
        layers: of the graph.
        pictures: uint8 RGB [1,H,W,3], letterboxed.

    Returns:
        Inputs in uint8 where they are never negative and int8 around 0 where they are, with a scale for each channel
        before depthwise convolutions. `unsigned` makes of it what CPUs take, `symmetric` what TensorRT takes.
    """
    os.environ.setdefault("NNCF_CI", "1")  # without it NNCF reports its use over the network, unasked
    import nncf  # noqa: PLC0415, seconds to import
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters  # noqa: PLC0415

    logging.getLogger("nncf").setLevel(logging.ERROR)
    (image,) = model.graph.input
    chosen = {layer.node for layer in layers}
    # Equalising weights between layers would tie layers together that are to be chosen apart.
    advanced = AdvancedQuantizationParameters(disable_channel_alignment=True)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    result = nncf.quantize(
        copy,
        nncf.Dataset(pictures, lambda picture: {image.name: picture}),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=[node.name for node in model.graph.node if node.name not in chosen]),
        advanced_parameters=advanced,
    )
    return _read(result, layers)


def symmetric(found: Quantised) -> Quantised:
    """The same ranges for TensorRT: int8 around 0, one scale for the whole input; it has nothing else.

    What was uint8 loses half of its steps.
    """
    steps = np.iinfo(found.zero_point.dtype).max
    return replace(
        found,
        scale=np.asarray(found.scale.max() * (steps / INT8_MAX), np.float32),
        zero_point=np.asarray(0, np.int8),
    )


def unsigned(found: Quantised) -> Quantised:
    """The same numbers in uint8 around 128, as CPUs take them.

    OpenVINO 2026.4 computes convolutions with int8 inputs wrongly where a concatenation lies before them: the error of
    the fusion in the encoder was a third of its output, and is a hundredth with uint8. It is no slower.
    """
    if found.zero_point.dtype == np.uint8:
        return found
    return replace(found, zero_point=(found.zero_point.astype(np.int16) + 128).astype(np.uint8))


def _read(model: Any, layers: Sequence[Layer]) -> dict[str, Quantised]:
    graph: onnx.GraphProto = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}

    def value(name: str) -> np.ndarray:
        return numpy_helper.to_array(constants[name])

    found = {}
    for layer in layers:
        conv = nodes[layer.node]
        makers = [made_by[name] for name in conv.input[:2] if name in made_by]
        if [node.op_type for node in makers] != ["DequantizeLinear", "DequantizeLinear"]:
            raise ExportError(f"NNCF left {layer.weight} in float; wanted all convolutions quantised")
        restored, weight = makers
        found[layer.node] = Quantised(
            scale=value(restored.input[1]),
            zero_point=value(restored.input[2]),
            weight=value(weight.input[0]),
            weight_scale=value(weight.input[1]).reshape(-1),
            bias=value(conv.input[2]),
        )
    return found
