"""What is known of a TensorRT plan, as `model.plan.json` beside `model.plan`; and whether the plan fits here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sparseinst_export.gpu import Gpu
from sparseinst_export.tensorrt_network import Profile
from sparseinst_export.tensorrt_version import runs_on
from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from pathlib import Path

NONE, AMPERE, SAME = "none", "ampere+", "same-compute-capability"
# What trtexec and the TensorRT API call them.
HARDWARE = {NONE: "NONE", AMPERE: "AMPERE_PLUS", SAME: "SAME_COMPUTE_CAPABILITY"}
AMPERE_CAPABILITY = 8  # major


@dataclass(frozen=True)
class Layer:
    """One layer of a plan, in TensorRT's words.

    Attributes:
        name: the layers of the graph that it holds.
        kind: what computes it.
        outputs: format and type of each output.
    """

    name: str
    kind: str = ""
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanReport:
    """Where a plan comes from, what it was built for and what it holds.

    Attributes:
        tensorrt: version that built it.
        gpu: that it was built on; None where there was none, which only TensorRT-RTX can do.
        precision: of the graph, as it says itself: fp32, fp16, int8, fp8.
        precisions: number of the graph's convolutions and matrix products in each precision.
        profile: its batch sizes.
        hardware_compatibility: key of `HARDWARE`.
        version_compatible: newer TensorRT versions run it, too.
        tf32: float32 products may be rounded to TF32.
        optimisation_level: 0 to 5, what the builder spent on it.
        workspace_mib: limit of scratch memory in MiB; None is all of the GPU's.
        graph_sha256: of the ONNX file.
        weights_sha256: of the weights the graph was exported from; None where it does not say.
        plan_sha256: of the plan.
        plan_bytes: size of the plan.
        device_memory: scratch memory of one execution context in bytes, beside the weights.
        build_seconds: parsing included.
        notes: sentences about the build that its user should know.
        layers: in the order they run.
    """

    tensorrt: str
    gpu: Gpu | None
    precision: str | None
    precisions: dict[str, int]
    profile: Profile
    hardware_compatibility: str
    version_compatible: bool
    tf32: bool
    optimisation_level: int
    workspace_mib: int | None
    graph_sha256: str
    weights_sha256: str | None
    plan_sha256: str
    plan_bytes: int
    device_memory: int | None
    build_seconds: float
    notes: tuple[str, ...]
    layers: tuple[Layer, ...]

    def to_json(self) -> str:
        """The report as JSON text, layers last; `from_json` gives an equal report back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> PlanReport:
        """Read a report; fields of later versions are left out.

        Raises:
            ExportError: it is none.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            known = {field.name: raw[field.name] for field in fields(cls)}
            known["gpu"] = None if known["gpu"] is None else Gpu(**known["gpu"])
            known["profile"] = Profile(**known["profile"])
            known["notes"] = tuple(known["notes"])
            known["layers"] = tuple(Layer(**one | {"outputs": tuple(one["outputs"])}) for one in known["layers"])
            return cls(**known)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ExportError(
                f"{source} is no report of a plan ({type(error).__name__}: {error}); wanted what `sparseinst-export "
                "tensorrt` writes; build the plan again, or remove the file"
            ) from error


def report_path(plan: Path) -> Path:
    """Where the report of a plan lies: `model.plan.json` for `model.plan`."""
    return plan.with_name(plan.name + ".json")


def report_of(plan: Path) -> PlanReport | None:
    """The report beside a plan; None where there is none, as trtexec leaves it.

    Raises:
        ExportError: the file there is no report, or that of another plan.
    """
    path = report_path(plan)
    if not path.is_file():
        return None
    report = PlanReport.from_json(path.read_text(encoding="utf-8"), source=str(path))
    if hashlib.sha256(plan.read_bytes()).hexdigest() != report.plan_sha256:
        raise ExportError(f"{path} is the report of another plan than {plan}; build the plan again, or remove the file")
    return report


def check_plan(plan: Path, report: PlanReport, tensorrt: str, gpu: Gpu) -> str | None:
    """Hold a plan against the TensorRT and the GPU that are to run it.

    Returns:
        A sentence where it runs, but was made for another GPU model.

    Raises:
        ExportError: it was built by or for others.
    """
    if not runs_on(report.tensorrt, tensorrt, report.version_compatible):
        compatible = " or newer" if report.version_compatible else ""
        raise ExportError(
            f"{plan} was built by TensorRT {report.tensorrt} and wants it{compatible}; here is {tensorrt}. "
            "Build it with the version that serves it"
        )
    built_on = report.gpu
    if built_on is None:
        return None
    wanted, got = built_on.compute_capability, gpu.compute_capability
    if report.hardware_compatibility == AMPERE:
        if int(got.split(".")[0]) < AMPERE_CAPABILITY:
            raise ExportError(
                f"{plan} was built for GPUs from compute capability {AMPERE_CAPABILITY}.0 on; this {gpu.name} has {got}"
            )
        return None
    if wanted != got:
        raise ExportError(
            f"{plan} was built on {built_on.name}, compute capability {wanted}; this {gpu.name} has {got}. "
            "Build it on this GPU, or one plan for each capability"
        )
    if report.hardware_compatibility == NONE and built_on.name != gpu.name:
        return (
            f"{plan} was built on {built_on.name} and runs on {gpu.name}: same compute capability, but the kernels "
            "were chosen by their time on the other; build it here for full speed"
        )
    return None


def layers_in(text: str) -> tuple[Layer, ...]:
    """Layers from what `EngineInspector.get_engine_information` gives as JSON; names only where it has no more.

    Raises:
        ExportError: the text is no such list.
    """
    try:
        raw = json.loads(text)
        found = raw["Layers"] if isinstance(raw, dict) else raw
        return tuple(Layer(one) if isinstance(one, str) else _layer(one) for one in found)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"TensorRT describes the plan's layers in a way not known here: {error}") from error


def _layer(raw: dict[str, Any]) -> Layer:
    outputs = tuple(str(output.get("Format/Datatype", "")) for output in raw.get("Outputs", ()))
    return Layer(str(raw["Name"]), str(raw.get("LayerType", "")), outputs)
