"""Which engines can run on this machine, and in words why the others cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparseinst_export.engines import ENGINES
from sparseinst_export.plan import EngineUnavailableError, tensorrt_engine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sparseinst.evaluate import Engine
    from sparseinst_runtime.contract import Contract

TENSORRT = "tensorrt"
NAMES = (*ENGINES, TENSORRT)


@dataclass
class Available:
    """Engines that were asked for.

    Attributes:
        engines: those that run, by name.
        left_out: why others do not run here, by name: a package, a GPU or a plan is missing.
        broken: why others could not be loaded, by name, though all they need is here.
    """

    engines: dict[str, Engine] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def load_engines(graph: bytes, plan: Path | None, contract: Contract, names: Sequence[str] | None = None) -> Available:
    """Load what runs a graph.

    Args:
        graph: the ONNX file's bytes.
        plan: TensorRT engine built from it; without one TensorRT is left out.
        contract: of the graph.
        names: of `NAMES`. An engine that is named and cannot run counts as broken. None takes all that can run.
    """
    available = Available()
    for name in NAMES if names is None else names:
        try:
            if name != TENSORRT:
                available.engines[name] = ENGINES[name](graph)
            elif plan is None:
                raise EngineUnavailableError("no --plan was given, which trtexec builds from the graph on a GPU")
            else:
                available.engines[name] = tensorrt_engine(plan, contract)
        except (EngineUnavailableError, ImportError) as error:
            missing = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
            (available.left_out if names is None else available.broken)[name] = missing
        except Exception as error:  # every library has its own; whatever it is, it belongs into the report
            lines = str(error).strip().splitlines() or ["no message"]
            available.broken[name] = f"does not take the graph: {type(error).__name__}: {lines[0]}"
    return available
