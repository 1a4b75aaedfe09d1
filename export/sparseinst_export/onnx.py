"""Weights to one ONNX file: the contract's inputs and outputs, scoring inside, any batch size, a fixed picture size.

The file is written only after onnx's checker took it and ONNX Runtime gave what PyTorch gives. It carries its contract
and the checksum of its weights as metadata, and nothing of the machine it was made on: the same weights and the same
libraries give the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import nn

from sparseinst import load_model
from sparseinst.network.head import ServingModel
from sparseinst_export.engines import onnxruntime_engine
from sparseinst_export.graph_options import AS_TRAINED, GraphOptions
from sparseinst_export.inspection import extra_outputs, inspected
from sparseinst_export.precision import TOLERANCES, HalfSparseInst, Precision
from sparseinst_export.verify import (
    FP32,
    Difference,
    ExportError,
    Tolerance,
    aligned,
    compare,
    relative_error,
    smooth_pictures,
)
from sparseinst_runtime.contract import Contract, TensorSpec
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence

OPSET = 20  # TensorRT 10 and 11, OpenVINO and ONNX Runtime read it
BATCH = "batch"  # name of the dynamic dimension
TRACED_BATCH = 2  # export specialises on 0 and 1
CHECKED_BATCHES = (1, 3)  # both others than the traced one
SERVED = 3  # outputs of the contract; what follows is extra
WORTH_HALVING = 1024  # values; below, a cast costs more than it saves
TENSOR_TYPES = {"UINT8": onnx.TensorProto.UINT8, "INT32": onnx.TensorProto.INT32, "FP32": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class Export:
    """A written export.

    Attributes:
        graph: the ONNX file.
        contract: contract.json beside it; None for a graph that no repository can take.
        size: bytes of the ONNX file.
        nodes: operators in the graph.
        differences: how far ONNX Runtime lay from PyTorch, one for each checked batch.
    """

    graph: Path
    contract: Path | None
    size: int
    nodes: int
    differences: tuple[Difference, ...]


def export_onnx(
    weights: Path,
    out: Path,
    batches: Sequence[np.ndarray] | None = None,
    precision: Precision = "fp32",
    options: GraphOptions = AS_TRAINED,
) -> Export:
    """Write weights as an ONNX graph, and contract.json beside it.

    Args:
        weights: safetensors file of a training, with its contract inside.
        out: the ONNX file to write; it and contract.json in its folder are replaced when everything holds.
        batches: pictures to compare ONNX Runtime with PyTorch on, each uint8 RGB [B,H,W,3]; one and three smooth
            random pictures by default, or as many as a fixed batch has.
        precision: of the network inside; inputs, outputs and scoring are the same in both.
        options: other sizes and outputs than those of the weights' contract.

    Raises:
        ExportError: the graph does not hold the contract, or computes something else than the weights in PyTorch.
        ContractError: the contract inside the weights, or one of the options, does not hold.
        ValueError: more instances than the network has, or activation maps of one that has none.
    """
    if out.suffix != ".onnx":
        raise ExportError(f"out is {out}; wanted a file name that ends in .onnx")
    model, contract = load_model(weights)
    contract = options.apply(contract)
    if batches is None:
        counts = CHECKED_BATCHES if options.batch is None else (options.batch,)
        batches = [smooth_pictures(count, contract.input_size, seed=count) for count in counts]
    network = HalfSparseInst(model) if precision == "fp16" else model
    traced = inspected(ServingModel(network, contract), options.extras).eval()
    everything = replace(contract, max_instances=model.config.decoder.instances)
    reference = inspected(ServingModel(model, everything), options.extras).eval()
    outputs = (*contract.outputs, *extra_outputs(model, contract, options.extras))
    graph = build_graph(traced, contract, outputs, options.batch)
    onnx.helper.set_model_props(graph, describe(contract, weights, precision))
    check_signature(graph, contract, outputs, options.batch)
    onnx.checker.check_model(graph, full_check=True)
    data = graph.SerializeToString(deterministic=True)
    differences = verify(data, reference, contract, batches, TOLERANCES[precision])
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, data)
    beside = atomic_write(out.with_name("contract.json"), contract.to_json()) if options.servable else None
    return Export(out, beside, len(data), len(graph.graph.node), differences)


def build_graph(
    serving: nn.Module, contract: Contract, outputs: Sequence[TensorSpec], batch: int | None = None
) -> onnx.ModelProto:
    """Trace the network into an ONNX graph that names nothing but these tensors and the network's weights.

    Args:
        serving: the network with its scoring, in eval mode.
        contract: of the graph.
        outputs: what it gives, in the order of `serving`.
        batch: the one batch size that is taken; None for any.
    """
    image = torch.from_numpy(smooth_pictures(TRACED_BATCH if batch is None else batch, contract.input_size))
    program = torch.onnx.export(
        serving,
        (image,),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=[contract.input.name],
        output_names=[spec.name for spec in outputs],
        dynamic_shapes={"image": {0: torch.export.Dim(BATCH, min=1)}} if batch is None else None,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch gave no ONNX program; wanted torch 2.13 or 2.14, which this export is tested with")
    model = program.model_proto
    _forget_origin(model)
    store_halves(model.graph)
    for tensor in (*model.graph.input, *model.graph.output):
        first = tensor.type.tensor_type.shape.dim[0]
        if first.dim_param:  # the exporter's own symbol; a fixed number stays and is refused by check_signature
            first.dim_param = BATCH
    return model


def describe(contract: Contract, weights: Path, precision: Precision) -> dict[str, str]:
    """What the file says about itself, under ONNX's `metadata_props`."""
    return {
        "contract": contract.to_json(),
        "precision": precision,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "torch_version": str(torch.__version__),
        "onnx_version": onnx.__version__,
    }


def check_signature(
    model: onnx.ModelProto,
    contract: Contract,
    outputs: Sequence[TensorSpec] | None = None,
    batch: int | None = None,
) -> None:
    """Hold a graph's inputs and outputs against the contract: names, order, dtypes and shapes.

    Args:
        model: the graph.
        contract: of the graph.
        outputs: what it is to give; by default the contract's outputs.
        batch: the one batch size that it is to take; None for any.

    Raises:
        ExportError: one differs; the message names it.
    """
    specs = (contract.input, *(contract.outputs if outputs is None else outputs))
    tensors = (*model.graph.input, *model.graph.output)
    got = [(t.name, t.type.tensor_type.elem_type, tuple(_dims(t))) for t in tensors]
    wanted = [(spec.name, TENSOR_TYPES[spec.dtype], (batch or BATCH, *spec.shape)) for spec in specs]
    if got != wanted:
        raise ExportError(f"the graph takes and gives {got}; the contract wants {wanted} (name, ONNX type, shape)")


def verify(
    data: bytes,
    serving: nn.Module,
    contract: Contract,
    batches: Sequence[np.ndarray],
    tolerance: Tolerance = FP32,
) -> tuple[Difference, ...]:
    """Compare ONNX Runtime with PyTorch in float32, batch by batch.

    Args:
        data: the ONNX file's bytes.
        serving: the network it was exported from, in float32; it may give out more instances than the contract.
        contract: the graph's.
        batches: pictures, each uint8 RGB [B,H,W,3].
        tolerance: what each batch is held to.

    Raises:
        ExportError: a batch differs by more than that.
    """
    engine = onnxruntime_engine(data)
    differences = []
    for batch in batches:
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in serving(torch.from_numpy(batch))]
        got = engine(batch)
        extra = max(map(relative_error, expected[SERVED:], got[SERVED:]), default=0.0)
        served = expected[:SERVED]
        if served[0].shape[1] > contract.max_instances:
            served = aligned(served, got[:SERVED])
        difference = replace(compare(served, got[:SERVED], contract.mask_threshold, tolerance), logits=extra)
        if not difference.holds:
            raise ExportError(f"ONNX Runtime does not give what PyTorch gives; {difference}; nothing was written")
        differences.append(difference)
    return tuple(differences)


def contract_in(path: Path, weights: Contract) -> Contract:
    """The contract that a graph carries, which may differ from its weights' in what `GraphOptions` change.

    Args:
        path: the ONNX file.
        weights: contract inside the weights.

    Raises:
        ExportError: not an ONNX graph, or the graph of another network.
        OSError: the file cannot be read.
    """
    properties = {entry.key: entry.value for entry in _parse(path.read_bytes(), path).metadata_props}
    if "contract" not in properties:
        return weights
    contract = Contract.from_json(properties["contract"], source=f"the contract in {path}")
    options = GraphOptions(contract.input_size, contract.max_instances, contract.mask_stride)
    if replace(options.apply(weights), max_batch_size=contract.max_batch_size) != contract:
        raise ExportError(f"{path} is of another network than these weights: its contract differs; wanted their export")
    return contract


def load_graph(path: Path, contract: Contract) -> bytes:
    """The bytes of an exported graph that holds the contract.

    Raises:
        ExportError: not an ONNX graph, or one for another contract.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    check_signature(_parse(data, path), contract)
    return data


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX graph ({error}); `sparseinst-export onnx` writes one") from error


def _forget_origin(model: onnx.ModelProto) -> None:
    # The exporter notes source lines and folders at every operator: they tell about the machine and swell the graph.
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for part in (*model.graph.input, *model.graph.output, *model.graph.node, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def store_halves(graph: onnx.GraphProto) -> None:
    """Store weights that fp16 holds exactly as fp16, with a cast: half the bytes, the same numbers.

    Weights are shipped in half precision. Engines fold the casts away when they load a graph.
    """
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < WORTH_HALVING:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), values):
            name, stored = tensor.name, f"{tensor.name}.half"
            tensor.CopyFrom(onnx.numpy_helper.from_array(halves, stored))
            casts.append(
                onnx.helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
            )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _dims(tensor: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
