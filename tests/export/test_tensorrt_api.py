"""What the code of ours asks of TensorRT's Python API exists in TensorRT 10 and in 11.

This compares names with a record of NVIDIA's public sources, tensorrt_api.json, which says for each list where it was
read and what could not be confirmed. No TensorRT ran, and a name says nothing about what it does.
"""

from __future__ import annotations

import ast
import json
import platform
from pathlib import Path

import pytest

from sparseinst_export.plan_report import HARDWARE

RECORD = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
MODULE = ""
# What the variables of these modules hold. `tensorrt_check` is left out: it asks TensorRT-RTX alone.
HOLDS = {
    "trt": MODULE,
    "tensorrt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "shapes": "IOptimizationProfile",
    "tensor": "ITensor",
    "error": "ParserError",
    "severities": "ILogger.Severity",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
}
FILES = ("tensorrt_network.py", "tensorrt_build.py", "tensorrt_progress.py", "plan.py")


def name_of(node: ast.expr) -> str | None:
    """`Class.attribute` of an expression that starts at a variable of `HOLDS`; None for any other."""
    if isinstance(node, ast.Name):
        return HOLDS.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = name_of(node.value)
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")
    return None


def used_in(source: str) -> set[str]:
    """Names of the API that a module reaches for: attributes, getattr with a literal, and methods it overrides."""
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(name_of(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            owner, asked = name_of(node.args[0]), node.args[1]
            if owner is not None and isinstance(asked, ast.Constant):
                found.add(f"{owner}.{asked.value}".lstrip("."))
        elif isinstance(node, ast.ClassDef):
            bases = [name_of(base) for base in node.bases]
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{base}.{method}" for base in bases if base for method in methods}
    return {name for name in found if name and not name.rpartition(".")[2].startswith("__")}


@pytest.fixture(scope="module")
def used(repo_root):
    """All that the builder and the plan's engine reach for."""
    folder = repo_root / "export" / "sparseinst_export"
    names = set().union(*(used_in((folder / name).read_text()) for name in FILES))
    return names | {f"HardwareCompatibilityLevel.{level}" for level in HARDWARE.values()}


def unknown_to(version: str, names: set[str]) -> set[str]:
    known = RECORD[version]["names"]
    return {
        name
        for name in names
        if name not in known and name.rpartition(".")[2] not in known.get(name.rpartition(".")[0], [])
    }


def test_the_walk_finds_what_matters(used):
    assert used >= {
        "Builder.build_serialized_network",
        "EngineInspector.get_engine_information",
        "ICudaEngine.device_memory_size_v2",  # by getattr
        "IProgressMonitor.step_complete",  # overridden
        "ILogger.Severity.ERROR",
        "IExecutionContext.execute_async_v3",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    }
    assert len(used) > 50


@pytest.mark.parametrize("version", ["10", "11"])
def test_every_name_exists_in_tensorrt(version, used):
    assert not unknown_to(version, used)


def test_what_tensorrt_11_took_away_would_be_noticed():
    assert unknown_to("11", used_in("config.set_flag(trt.BuilderFlag.FP16)")) == {"BuilderFlag.FP16"}
    assert unknown_to("11", used_in("engine.device_memory_size")) == {"ICudaEngine.device_memory_size"}
    assert unknown_to("10", used_in("config.build_route")) == {"IBuilderConfig.build_route"}


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="TensorRT-RTX has no build for this machine"
)
def test_tensorrt_rtx_stands_for_it_in_every_name(used):
    """So what runs with TensorRT-RTX in the other tests runs by the names that TensorRT has."""
    import tensorrt_rtx

    missing = set()
    for name in used:
        owner = tensorrt_rtx
        for part in name.split("."):
            owner = getattr(owner, part, None)
        missing |= {name} if owner is None else set()
    assert not missing
