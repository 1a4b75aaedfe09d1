"""Presets: which engine computes, and how, chosen at Triton's start by `--model-config-name`.

Triton takes `configs/PRESET.pbtxt` of each model that has one and config.pbtxt of the others, also for a name that
nobody has: a misspelt preset silently serves the default. So every preset has its file, the default's too, and what
can be asked beforehand is asked here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from sparseinst_export.layout import FRONT, NETWORK, RepositoryError
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

TENSORRT, CPU, ONNXRUNTIME = "tensorrt", "cpu", "onnxruntime"
# Written from cpu.pbtxt at assembly: another graph, or as many pictures at a time as there are cores, or both.
CPU_INT8, CPU_THROUGHPUT, CPU_INT8_THROUGHPUT = "cpu-int8", "cpu-throughput", "cpu-int8-throughput"
PRESETS = (TENSORRT, CPU, CPU_INT8, CPU_THROUGHPUT, CPU_INT8_THROUGHPUT, ONNXRUNTIME)
ONNX, INT8, PLAN = "model.onnx", "model.int8.onnx", "model.plan"
OPTION = {ONNX: "--onnx", INT8: "--int8"}  # of `sparseinst-export repository`; a plan's is --plan

CAPABILITY = re.compile(r"\d+\.\d+")  # compute capability of a GPU: 8.9
DEFAULT_FILE = re.compile(r'^default_model_filename: "(?P<name>[^"]+)"$', re.MULTILINE)
CAPABILITY_FILE = re.compile(r'^cc_model_filenames \{ key: "[^"]+" value: "(?P<name>[^"]+)" \}$', re.MULTILINE)
GRAPH = re.compile(r'^parameters \{ key: "graph" value \{ string_value: "(?P<name>[^"]+)" \} \}$', re.MULTILINE)
ONE_STREAM, ALL_CORES = (f'parameters {{ key: "streams" value {{ string_value: "{n}" }} }}' for n in ("1", "cores"))


def engine_files(
    onnx: Path, *, int8: Path | None = None, plan: Path | None = None, plans: Mapping[str, Path] | None = None
) -> dict[str, Path]:
    """The engines of one network, by the name that each gets in its version folder.

    Args:
        onnx: the exported graph.
        int8: the same graph, quantised for CPUs.
        plan: TensorRT engine, for whatever GPU has no other.
        plans: TensorRT engines by compute capability, {"8.9": Path}.

    Raises:
        RepositoryError: a file is missing or empty, or a key is no compute capability.
    """
    files = {ONNX: onnx, INT8: int8, PLAN: plan}
    for capability, path in (plans or {}).items():
        if not CAPABILITY.fullmatch(capability):
            raise RepositoryError(f"{capability!r} is no compute capability of a GPU; wanted one like 8.9, for {path}")
        files[f"model.{capability}.plan"] = path
    given = {name: path for name, path in files.items() if path is not None}
    for name, path in given.items():
        if not path.is_file() or path.stat().st_size == 0:
            raise RepositoryError(f"no engine at {path}; wanted the file that becomes {name}, as export writes it")
    return given


def read_plans(path: Path) -> dict[str, Path]:
    """`plans.json`: file name by compute capability, {"8.9": "model.8.9.plan"}, beside the plans themselves."""
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{path} cannot be read as JSON ({error}); wanted plan files by compute capability"
        ) from (error)
    if not isinstance(plans, dict) or not all(isinstance(name, str) for name in plans.values()):
        raise RepositoryError(f'{path} holds something else than wanted, {{"8.9": "model.8.9.plan"}}')
    return {capability: path.parent / name for capability, name in plans.items()}


def write_presets(repository: Path, engines: Iterable[str]) -> None:
    """Complete the configurations: those that differ from another in a line or two are written from it.

    The network's `config.pbtxt` gets the plans by compute capability and becomes `configs/tensorrt.pbtxt`, too. From
    each `cpu.pbtxt` come the other CPU presets.

    Args:
        repository: filled from the template.
        engines: names of the files in the network's version folder.
    """
    _write_tensorrt(repository / NETWORK, engines)
    for model in (FRONT, NETWORK):
        configs = repository / model / "configs"
        cpu = (configs / f"{CPU}.pbtxt").read_text(encoding="utf-8")
        for preset in (CPU_INT8, CPU_THROUGHPUT, CPU_INT8_THROUGHPUT):
            text, differences = _replace(cpu, f"--model-config-name={CPU}", f"--model-config-name={preset}"), []
            if preset != CPU_THROUGHPUT:
                text = _replace(text, f'"{ONNX}"', f'"{INT8}"')
                differences.append(INT8)
            if preset != CPU_INT8:
                text = _replace(text, ONE_STREAM, ALL_CORES)
                differences.append("a stream on each core")
            remark = f"# Written at assembly: {CPU}.pbtxt with {' and '.join(differences)}."
            atomic_write(configs / f"{preset}.pbtxt", f"{remark}\n{text}")


def _write_tensorrt(folder: Path, engines: Iterable[str]) -> None:
    plans = {name.removeprefix("model.").removesuffix(".plan"): name for name in engines if name.endswith(".plan")}
    lines = [
        f'cc_model_filenames {{ key: "{capability}" value: "{name}" }}'
        for capability, name in sorted(plans.items())
        if name != PLAN
    ]
    default = folder / "config.pbtxt"
    text = default.read_text(encoding="utf-8")
    place = DEFAULT_FILE.search(text)
    if place is None:
        raise RepositoryError("the template has no default_model_filename in the network's config.pbtxt")
    text = "\n".join([text[: place.end()], *lines]) + text[place.end() :]
    atomic_write(default, text)
    atomic_write(folder / "configs" / f"{TENSORRT}.pbtxt", f"# Written at assembly: config.pbtxt by its name.\n{text}")


def _replace(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise RepositoryError(f"the template's {CPU}.pbtxt has {old!r} {text.count(old)} times; wanted it once")
    return text.replace(old, new)


def files_of(config: str) -> list[list[str]]:
    """Engine files that a configuration of the network names: of each list, Triton needs at least one.

    A Python model reads the one that its parameter `graph` names; TensorRT that of the GPU's compute capability.
    """
    if graph := GRAPH.search(config):
        return [[graph["name"]]]
    default = DEFAULT_FILE.search(config)
    return [[match["name"] for match in CAPABILITY_FILE.finditer(config)] + ([default["name"]] if default else [])]


def preset_problem(repository: Path, preset: str, version: int) -> str | None:
    """Why a preset cannot be served, as a sentence; None where nothing speaks against it.

    Args:
        repository: a model repository of ours.
        preset: Triton's --model-config-name.
        version: of the network.
    """
    configs = repository / NETWORK / "configs"
    if not (configs / f"{preset}.pbtxt").is_file():
        known = ", ".join(sorted(path.stem for path in configs.glob("*.pbtxt")))
        return f"no preset {preset!r} in the repository, and Triton would serve the default instead; wanted {known}"
    folder = repository / NETWORK / str(version)
    for names in files_of((configs / f"{preset}.pbtxt").read_text(encoding="utf-8")):
        if not any((folder / name).is_file() for name in names):
            option = OPTION.get(names[-1], "--plan")
            return (
                f"preset {preset!r} serves {' or '.join(names)}, which version {version} of the network has not; "
                f"write the repository again with {option}, or choose another preset"
            )
    return None
