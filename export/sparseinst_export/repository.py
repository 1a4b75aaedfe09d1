"""Fill the model repository's template with an exported network, ready for Triton.

`model_repository/` in git holds the models without an engine. Here it is copied, the engines and their contract go into
the version folders, and the lines of the config files that depend on the network are written from the contract.
Needs the runtime only, neither torch nor onnx, so that a machine that serves can do it.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparseinst_export.configurations import fill, with_contract
from sparseinst_export.layout import ENSEMBLES, MODELS, TEMPLATE_VERSION, RepositoryError, check_template
from sparseinst_export.presets import engine_files, write_presets
from sparseinst_export.versions import write_version
from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def assemble(
    template: Path,
    onnx: Path,
    contract: Path,
    out: Path,
    *,
    version: int = 1,
    int8: Path | None = None,
    plan: Path | None = None,
    plans: Mapping[str, Path] | None = None,
) -> Path:
    """Write a model repository that Triton can serve: the template, filled with one network.

    The repository is built beside `out` and renamed into its place at the end; an interrupted run leaves the old one.
    `versions.add_version` adds to a repository instead.

    Args:
        template: folder with the models of `MODELS`, as in the project's `model_repository/`.
        onnx: the exported graph; becomes `sparseinst_network/<version>/model.onnx`.
        contract: the contract.json of that graph.
        out: folder to write. Absent, empty, or an earlier repository of ours, which is replaced as a whole.
        version: number of the version folder, from 1.
        int8: the same graph, quantised for CPUs; becomes `model.int8.onnx`.
        plan: TensorRT engine of the same graph; becomes `model.plan`.
        plans: TensorRT engines by compute capability; become `model.8.9.plan` and so on.

    Returns:
        `out`, as an absolute path.

    Raises:
        RepositoryError: a file is missing, a config line cannot be filled, or `out` holds something else.
        ContractError: the contract cannot be read or does not hold together.
    """
    if version < 1:
        raise RepositoryError(f"version is {version}; wanted 1 or more, as Triton counts them")
    template, out = template.resolve(), out.resolve()
    check_template(template)
    engines = engine_files(onnx, int8=int8, plan=plan, plans=plans)
    loaded = Contract.load(contract)
    _check_target(template, out)

    with _swapped_into(out) as fresh:
        for model in MODELS:
            _copy_configurations(template / model, fresh / model)
            for config in (fresh / model).rglob("*.pbtxt"):
                text = fill(config.read_text(encoding="utf-8"), loaded, source=f"{model}/{config.name}")
                config.write_text(with_contract(text, loaded) if model in ENSEMBLES else text, encoding="utf-8")
        write_presets(fresh, engines)
        for model in MODELS:
            write_version(template, model, fresh / model / str(version), loaded, engines)
    return out


def _copy_configurations(source: Path, target: Path) -> None:
    """All of a model of the template but its version folder; contents only, neither permissions nor links."""
    ignored = shutil.ignore_patterns(TEMPLATE_VERSION, "__pycache__", ".*")
    shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=ignored)


def _check_target(template: Path, out: Path) -> None:
    if out == template or template in out.parents or out in template.parents:
        raise RepositoryError(f"{out} and the template {template} lie in one another; write to a folder of its own")
    if not out.exists():
        return
    if not out.is_dir():
        raise RepositoryError(f"{out} is a file; wanted a folder to write the repository to")
    strangers = sorted({entry.name for entry in out.iterdir()} - set(MODELS))
    if strangers:
        raise RepositoryError(
            f"{out} also holds {', '.join(strangers[:5])}, and a repository is replaced as a whole; "
            "write to a folder of its own and give Triton both with two --model-repository options"
        )


@contextmanager
def _swapped_into(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place on success and is removed on failure."""
    suffix = uuid.uuid4().hex[:8]
    fresh, old = (out.with_name(f".{out.name}.{kind}-{suffix}") for kind in ("new", "old"))
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
