"""Versions in one model repository: add the next, go back to the one before, and forth again. Nothing is ever deleted.

Triton serves the newest version folder of a model unless its configuration names another. So a version is served by
being added, in front of a running server too, and a roll-back names the one before it in every configuration. Models
change one after the other, and a model of the new version that fails to load leaves its old one in service: for that
moment, or longer, versions mix. Hence the rule that makes it safe: versions agree in what models and clients share.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

from sparseinst_export.configurations import pinned, pinned_version, with_contract
from sparseinst_export.layout import (
    ENSEMBLES,
    FRONT,
    MODELS,
    NETWORK,
    TEMPLATE_VERSION,
    WITH_CONTRACT,
    RepositoryError,
    check_template,
    complete_versions,
    config_files,
    version_folders,
)
from sparseinst_runtime.checksums import NAME, read_checksums, verified, write_checksums
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STAGED = ".staged-"  # Triton passes over folders whose name is no number
# What may differ between versions: nothing outside a version folder depends on it, and no tensor changes. All else is
# in the shared configuration (sizes, instances, batch), or clients keep it from when they connected (classes, ids, the
# colour that `sparseinst_pixels` is padded with). std goes with mean: a network is trained for both.
MAY_DIFFER = ("name", "score_threshold", "mask_threshold")
CONTRACT = "contract.json"
KEEP = ".keep"


def write_version(template: Path, model: str, folder: Path, contract: Contract, engines: Mapping[str, Path]) -> None:
    """Write one version folder of a model: its code, contract, engines and checksums, as far as it has such.

    Contents are copied without permissions or links: a server under another user must be able to read them.
    """
    shutil.copytree(
        template / model / TEMPLATE_VERSION,
        folder,
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.onnx", "*.plan", CONTRACT, NAME),
    )
    if model in WITH_CONTRACT:
        (folder / CONTRACT).write_text(contract.to_json(), encoding="utf-8")
        for name, path in engines.items():
            if model == NETWORK or (
                model == FRONT and name.endswith(".onnx")
            ):  # CPU presets need the graphs there, too
                shutil.copyfile(path, folder / name)
        write_checksums(folder)
    else:
        (folder / KEEP).touch()  # git and object stores have no empty folders


def add_version(
    template: Path, contract: Contract, engines: Mapping[str, Path], repository: Path, version: int | None = None
) -> tuple[int, bool]:
    """Add a network to a repository, as its newest version, which is then the one that is served.

    Configurations stay as they are in the repository, tuned or not; of them only the lines that name the served version
    and its contract change. The folders are written under names that Triton passes over and renamed at the end, each at
    once; a run that is killed between leaves an incomplete version, which the next one passes over.

    Args:
        template: folder with the code of the models, as in the project's `model_repository/`.
        contract: of the network.
        engines: its files by name, see `presets.engine_files`.
        repository: a model repository of ours.
        version: its number, above all that are there; None takes the next.

    Returns:
        The version, and whether it was added: False when the newest version holds these very files already.

    Raises:
        RepositoryError: the network does not go with the versions that are there, or the number is taken.
        ContractError: the newest version cannot be read.
    """
    check_template(template)
    newest = complete_versions(repository)[-1]
    taken = max(number for model in MODELS for number in version_folders(repository, model))
    version = taken + 1 if version is None else version
    if version <= taken:
        raise RepositoryError(
            f"version is {version}, and {taken} is there already; wanted a larger one, or none for the next"
        )
    _check_contracts(Contract.load(repository / NETWORK / str(newest) / CONTRACT), newest, contract)
    _check_engines(read_checksums(repository / NETWORK / str(newest)), newest, engines)

    staged = f"{STAGED}{uuid.uuid4().hex[:8]}"
    try:
        for model in MODELS:
            for rubbish in (repository / model).glob(f"{STAGED}*"):  # of a run that was killed
                shutil.rmtree(rubbish)
            write_version(template, model, repository / model / staged, contract, engines)
        if all(_same(repository / model / staged, repository / model / str(newest)) for model in WITH_CONTRACT):
            return newest, False
        texts = _serving(repository, contract, None)  # before the folders: an error here must leave nothing behind
        for model in reversed(MODELS):
            (repository / model / staged).rename(repository / model / str(version))
        _write(texts)
    finally:
        for model in MODELS:
            shutil.rmtree(repository / model / staged, ignore_errors=True)
    return version, True


def served_version(repository: Path) -> int:
    """The version that Triton serves: the one that a roll-back has fixed, else the newest; raises RepositoryError."""
    versions = complete_versions(repository)
    pin = pinned_version((repository / ENSEMBLES[0] / "config.pbtxt").read_text(encoding="utf-8"))
    return versions[-1] if pin is None else pin


def roll_back(repository: Path) -> int:
    """Serve the version before the one that is served; gives its number.

    Every configuration names it from then on. All texts are made before the first is written, each is replaced at once,
    and the front door's comes last: a run that is killed between is finished by running it again.

    Raises:
        RepositoryError: no version lies before it, or a configuration has a version policy of its own.
        ContractError: the files of that version are not those that were assembled.
    """
    served = served_version(repository)
    older = [version for version in complete_versions(repository) if version < served]
    if not older:
        raise RepositoryError(f"version {served} of {repository} is the oldest that is complete; nothing to go back to")
    _serve(repository, older[-1], pin=True)
    return older[-1]


def roll_forward(repository: Path) -> int:
    """Serve the newest version again, and whatever is added from then on; gives its number. Raises like `roll_back`."""
    newest = complete_versions(repository)[-1]
    _serve(repository, newest, pin=False)
    return newest


def contract_difference(first: Contract, second: Contract) -> list[str]:
    """Fields in which two contracts may not differ within one repository, and do."""
    theirs, ours = asdict(first), asdict(second)
    return [name for name in ours if name not in MAY_DIFFER and ours[name] != theirs[name]]


def _serve(repository: Path, version: int, *, pin: bool) -> None:
    for model in WITH_CONTRACT:
        folder = repository / model / str(version)
        for name in read_checksums(folder):
            verified(folder, name)
    contract = Contract.load(repository / NETWORK / str(version) / CONTRACT)
    _write(_serving(repository, contract, version if pin else None))


def _serving(repository: Path, contract: Contract, pin: int | None) -> dict[Path, str]:
    """Texts of all configurations for a version, the ensembles' last and `sparseinst` the very last."""
    texts = {}
    for model in reversed(MODELS):
        for path in config_files(repository, model):
            text = path.read_text(encoding="utf-8")
            try:
                text = pinned(with_contract(text, contract) if model in ENSEMBLES else text, pin)
            except RepositoryError as error:
                raise RepositoryError(f"{model}/{path.name}: {error}") from error
            texts[path] = text
    return texts


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        if path.read_text(encoding="utf-8") != text:  # Triton loads a model again whose configuration was touched
            atomic_write(path, text)


def _check_contracts(theirs: Contract, newest: int, ours: Contract) -> None:
    if names := contract_difference(theirs, ours):
        values = [(name, _short(getattr(theirs, name)), _short(getattr(ours, name))) for name in names[:3]]
        shown = "; ".join(f"{name} {there} there, {here} here" for name, there, here in values)
        raise RepositoryError(
            f"mixed contracts: version {newest} of the repository and this network differ in {', '.join(names)} "
            f"({shown}). Versions share one configuration, and clients what they know of it; write this network to a "
            "new repository, or over this one with --replace"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_engines(there: Mapping[str, str], newest: int, engines: Mapping[str, Path]) -> None:
    found = {name for name in there if name.endswith((".onnx", ".plan"))}
    missing, more = sorted(found - set(engines)), sorted(set(engines) - found)
    if missing or more:
        differences = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"adds {', '.join(more)}"] * bool(more)
        raise RepositoryError(
            f"against version {newest} of the repository this network {' and '.join(differences)}; wanted the same "
            "engines, so that going back serves under every preset. Give these, or write anew with --replace"
        )


def _same(staged: Path, there: Path) -> bool:
    return read_checksums(staged) == read_checksums(there)
