"""Look a model repository through, as far as that goes without a server: what is wrong, in sentences.

Files are held against their checksums, contracts against each other, configurations against the contract, and a preset
against its engines. Python models check their own files again when they load; a TensorRT plan is checked here only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseinst_export.configurations import fill, pinned_version, with_contract
from sparseinst_export.layout import (
    ENSEMBLES,
    MODELS,
    NETWORK,
    WITH_CONTRACT,
    RepositoryError,
    complete_versions,
    config_files,
    version_folders,
)
from sparseinst_export.presets import preset_problem
from sparseinst_export.versions import CONTRACT, contract_difference, served_version
from sparseinst_runtime.checksums import NAME, read_checksums, verified
from sparseinst_runtime.contract import Contract, ContractError

if TYPE_CHECKING:
    from pathlib import Path


def repository_problems(repository: Path, preset: str | None = None) -> list[str]:
    """Everything that is wrong with a repository of ours; empty where nothing is.

    Args:
        repository: the folder that Triton is given.
        preset: its --model-config-name, where that is to be served.

    Raises:
        RepositoryError: it is no repository of ours, or no version is complete.
    """
    versions, served = complete_versions(repository), served_version(repository)
    problems = _links(repository) + _incomplete(repository, versions)
    contracts = {}
    for version in versions:
        found = [_version_problems(repository / model / str(version)) for model in WITH_CONTRACT]
        problems += [problem for each in found for problem in each]
        try:
            loaded = [Contract.load(repository / model / str(version) / CONTRACT) for model in WITH_CONTRACT]
        except ContractError:
            continue  # named above, by its checksum
        problems += [
            f"{model} and {NETWORK} have different contracts in version {version}; write the repository anew"
            for model, contract in zip(WITH_CONTRACT, loaded, strict=True)
            if contract != loaded[WITH_CONTRACT.index(NETWORK)]
        ]
        contracts[version] = loaded[WITH_CONTRACT.index(NETWORK)]
    for version, contract in contracts.items():
        if names := contract_difference(contracts[min(contracts)], contract):
            problems.append(f"mixed contracts: versions {min(contracts)} and {version} differ in {', '.join(names)}")
    if served in contracts:
        problems += _config_problems(repository, served, contracts[served])
    else:
        problems.append(f"version {served} is to be served, and is not there as a whole; use --roll-forward")
    if preset is not None and (problem := preset_problem(repository, preset, served)):
        problems.append(problem)
    return problems


def _links(repository: Path) -> list[str]:
    links = sorted(path.relative_to(repository) for path in repository.rglob("*") if path.is_symlink())
    return [f"{path} is a link; a container or a model store does not see where it leads" for path in links]


def _incomplete(repository: Path, versions: list[int]) -> list[str]:
    there = {model: version_folders(repository, model) for model in MODELS}
    return [
        f"version {version} is there for {', '.join(model for model in MODELS if version in there[model])} only: a run "
        "was killed; add a version, or remove these folders"
        for version in sorted(set().union(*there.values()) - set(versions))
    ]


def _version_problems(folder: Path) -> list[str]:
    try:
        sums = read_checksums(folder)
    except ContractError as error:
        return [str(error)]
    problems = []
    there = {entry.name for entry in folder.iterdir() if entry.is_file()} - {NAME}
    for name in sorted(there | sums.keys()):
        try:
            verified(folder, name)
        except ContractError as error:
            problems.append(str(error))
    return problems


def _config_problems(repository: Path, served: int, contract: Contract) -> list[str]:
    """What the configurations say otherwise than the contract and the version that is served."""
    problems, front = [], pinned_version((repository / ENSEMBLES[0] / "config.pbtxt").read_text(encoding="utf-8"))
    for model in MODELS:
        for path in config_files(repository, model):
            name, text = f"{model}/{path.relative_to(repository / model)}", path.read_text(encoding="utf-8")
            try:
                filled = fill(text, contract, source=name)
            except RepositoryError as error:
                problems.append(str(error))
                continue
            wrong = [a for a, b in zip(text.splitlines(), filled.splitlines(), strict=True) if a != b]
            problems += [f"{name} says {line.strip()!r}, and the contract another number" for line in wrong]
            if pinned_version(text) != front:
                problems.append(
                    f"{name} serves another version than the others; finish by --roll-back or --roll-forward"
                )
            if model in ENSEMBLES and with_contract(text, contract) != text:
                problems.append(f"{name} tells clients of another contract than that of version {served}")
    return problems
