"""A float32 graph of ours to a quantised one: Q/DQ pairs in one ONNX file, with the same inputs, outputs and contract.

Calibrated by NNCF on pictures; groups of layers that cost too much are found on other pictures and stay float. What
was measured is written beside the graph as it is measured, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import onnx
from google.protobuf.message import DecodeError

from sparseinst.data import CocoInstances
from sparseinst_export.calibration import Quantised, calibrate, symmetric, unsigned
from sparseinst_export.engines import openvino_engine
from sparseinst_export.folding import folded
from sparseinst_export.layer_groups import by_group, check_groups, find_layers
from sparseinst_export.mixed_precision import Judge, Measure, Search, remembered, search
from sparseinst_export.onnx import load_graph
from sparseinst_export.qdq import Kind, insert
from sparseinst_export.quantization_record import Group, Record, table
from sparseinst_export.tensorrt_network import metadata
from sparseinst_export.verify import ExportError
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.decode import decode_letterboxed
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

Target = Literal["cpu", "tensorrt"]
WANTED = "wanted a float32 graph that `sparseinst-export onnx` wrote"


@dataclass(frozen=True)
class Settings:
    """What to make, and how.

    Attributes:
        target: `cpu`: uint8 and int8 as OpenVINO and ONNX Runtime run them. `tensorrt`: int8 around 0 throughout.
        precision: `int8`, or `fp8` (E4M3), which is for TensorRT alone.
        calibration_pictures: how many pictures ranges come from.
        search_pictures: how many pictures groups are measured on.
        max_drop: largest loss of AP on them, where they have annotations.
        min_agreement: least agreement with the float graph on them, see `mixed_precision`.
        keep_float: groups that are not quantised.
        search: False quantises everything else without measuring.
        seed: of the choice of pictures.

    Raises:
        ExportError: fp8 for a CPU.
    """

    target: Target = "cpu"
    precision: Kind = "int8"
    calibration_pictures: int = 128
    search_pictures: int = 100
    max_drop: float = 0.005
    min_agreement: float = 0.95
    keep_float: tuple[str, ...] = ()
    search: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no engine runs."""
        if self.precision == "fp8" and self.target == "cpu":
            raise ExportError("precision is fp8 and target cpu; fp8 is for TensorRT: give --target tensorrt")


@dataclass(frozen=True)
class Quantisation:
    """A written graph.

    Attributes:
        graph: the ONNX file.
        record: JSON of everything that was measured.
        size: bytes of the ONNX file.
        groups: all groups, in the order of computation.
        found: of the search; None without one.
    """

    graph: Path
    record: Path
    size: int
    groups: tuple[Group, ...]
    found: Search | None


def quantize(graph: Path, annotations: Path, images: Path, out: Path, settings: Settings | None = None) -> Quantisation:
    """Write a quantised graph, `contract.json` beside it, and the record of the search as `<out>.json`.

    The same inputs, settings and libraries give the same bytes.

    Args:
        graph: ONNX file in float32, as `export_onnx` writes it.
        annotations: COCO instances JSON; pictures without annotations will do, see `mixed_precision`.
        images: folder of its pictures. Take training pictures: what is measured on them chooses the layers.
        out: the ONNX file to write.
        settings: what to make; `Settings()` by default.

    Raises:
        ExportError: no graph of ours, one that is no longer float32, unknown groups, or too few pictures.
        DataError: annotations or pictures cannot be read.
        OSError: a file cannot be read or written.
    """
    settings = settings or Settings()
    if out.suffix != ".onnx" or out.resolve() == graph.resolve():
        raise ExportError(f"out is {out}; wanted another file name than the graph's, one that ends in .onnx")
    contract, model = load_float_graph(graph)
    base = folded(model)
    layers = find_layers(base)
    groups = by_group(layers)
    check_groups(settings.keep_float, groups)
    dataset = CocoInstances(annotations, images, keep_empty=True, class_agnostic=contract.class_agnostic)
    calibration, chosen = choose_pictures(len(dataset), settings)
    frame = (contract.input_size, contract.pad_colour)
    pictures = [decode_letterboxed(dataset.file(index), *frame)[0][None] for index in calibration]
    out.parent.mkdir(parents=True, exist_ok=True)
    inputs = _inputs(base, pictures, [dataset.image_ids[index] for index in chosen], annotations, settings)
    record = Record(out.with_suffix(".json"), inputs)
    numbers = calibrate(base, layers, pictures)
    if settings.target == "tensorrt":
        numbers = {node: symmetric(found) for node, found in numbers.items()}
    for_cpu = {node: unsigned(found) for node, found in numbers.items()}

    def build(quantised: frozenset[str], numbers: dict[str, Quantised]) -> bytes:
        result = insert(base, [layer for layer in layers if layer.group in quantised], numbers, settings.precision)
        kept = [group for group in groups if group not in quantised]
        _describe(result, settings, kept)
        onnx.checker.check_model(result, full_check=True)
        return result.SerializeToString(deterministic=True)

    found = None
    if settings.search:
        judge = Judge(dataset, annotations, chosen, contract, openvino_engine(model.SerializeToString()))

        def measure(quantised: frozenset[str]) -> Measure:
            # On this CPU, whatever the target: the numbers are the same, but for the one below -127.
            return judge(openvino_engine(build(quantised, numbers if settings.precision == "fp8" else for_cpu)))

        found = search(
            tuple(groups),
            judge.reference,
            remembered(measure, record.measured, record.save),
            keep_float=settings.keep_float,
            max_drop=settings.max_drop,
            min_agreement=settings.min_agreement,
        )
    kept = found.kept if found else settings.keep_float
    if len(kept) == len(groups):
        raise ExportError(
            "every group of layers stays float; wanted some to quantise: a larger --max-drop, a smaller "
            f"--min-agreement, or fewer groups kept; {record.path} has the measures"
        )
    data = build(frozenset(groups) - set(kept), for_cpu if settings.target == "cpu" else numbers)
    rows = table(groups, found, kept)
    atomic_write(out.with_name("contract.json"), contract.to_json())
    atomic_write(out, data)
    record.finish(asdict(settings), rows, found, hashlib.sha256(data).hexdigest())
    return Quantisation(out, record.path, len(data), rows, found)


def load_float_graph(path: Path) -> tuple[Contract, onnx.ModelProto]:
    """A graph of ours that can be quantised, with the contract it carries.

    Raises:
        ExportError: no ONNX graph, not one of ours, or not float32.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX graph ({error}); {WANTED}") from error
    properties = metadata(model)
    if "contract" not in properties:
        raise ExportError(f"{path} carries no contract; {WANTED}")
    contract = Contract.from_json(properties["contract"], source=f"the contract in {path}")
    load_graph(path, contract)
    precision = properties.get("precision", "fp32")
    if precision != "fp32":
        raise ExportError(f"{path} is {precision} already; {WANTED}")
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"{path} has quantised layers already; {WANTED}")
    return contract, model


def choose_pictures(count: int, settings: Settings) -> tuple[list[int], list[int]]:
    """Indices of the pictures to calibrate and to search with, out of `count`; they differ where there are enough.

    Raises:
        ExportError: there are fewer than asked for.
    """
    wanted = max(settings.calibration_pictures, settings.search_pictures if settings.search else 0)
    if not 1 <= wanted <= count:
        raise ExportError(
            f"there are {count} pictures; wanted {settings.calibration_pictures} to calibrate and "
            f"{settings.search_pictures} to search with: give more, or ask for fewer"
        )
    order = list(range(count))
    random.Random(settings.seed).shuffle(order)
    return sorted(order[: settings.calibration_pictures]), sorted(order[count - settings.search_pictures :])


def _inputs(
    base: onnx.ModelProto, pictures: list[np.ndarray], chosen: list[int], annotations: Path, settings: Settings
) -> dict[str, Any]:
    # What measures depend on; how much may be lost, and what stays float in the end, do not change them.
    return {
        "weights_sha256": metadata(base).get("weights_sha256"),
        "float_graph_sha256": _sha256([base.SerializeToString(deterministic=True)]),
        "calibration_pictures": len(pictures),
        "calibration_sha256": _sha256(picture.tobytes() for picture in pictures),
        "annotations_sha256": _sha256([annotations.read_bytes()]),
        "search_image_ids": chosen if settings.search else [],
        "target": settings.target,
        "precision": settings.precision,
    }


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _describe(model: onnx.ModelProto, settings: Settings, kept: list[str]) -> None:
    properties = metadata(model)
    quantised = {"target": settings.target, "float_groups": kept, "calibration_pictures": settings.calibration_pictures}
    properties |= {"precision": settings.precision, "quantisation": json.dumps(quantised)}
    onnx.helper.set_model_props(model, properties)
