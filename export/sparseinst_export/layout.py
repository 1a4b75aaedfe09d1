"""How a model repository of ours is laid out: its models, their version folders, the template it is made from.

MODEL/config.pbtxt            what Triton reads when no preset is named
MODEL/configs/PRESET.pbtxt    what it reads for --model-config-name=PRESET, where a preset changes the model
MODEL/VERSION/                model.py, contract.json, engines, SHA256SUMS; nothing but .keep in a mere ensemble
"""

from __future__ import annotations

import re
from pathlib import Path

FRONT = "sparseinst"  # an ensemble, but under the CPU presets one Python model that does all of it
ENSEMBLES = (FRONT, "sparseinst_pixels")
NETWORK = "sparseinst_network"
MODELS = (*ENSEMBLES, "sparseinst_preprocess", NETWORK, "sparseinst_postprocess")
# Each of them gets its own contract.json: a remote model store hands Triton one model folder at a time.
WITH_CONTRACT = (FRONT, "sparseinst_preprocess", NETWORK, "sparseinst_postprocess")

TEMPLATE_VERSION = "1"  # the version folder that the template's code lies in
VERSION_NAME = re.compile(r"[1-9]\d*")  # Triton ignores a leading zero


class RepositoryError(ValueError):
    """A model repository that cannot be written or read; the message says what was got, what was wanted, what to do."""


def find_template() -> Path:
    """The template of the checkout this package runs from.

    Raises:
        RepositoryError: the package is installed without its checkout, so there is no template beside it.
    """
    template = Path(__file__).resolve().parents[2] / "model_repository"
    if not (template / NETWORK).is_dir():
        raise RepositoryError(
            "no model repository template beside this package; "
            "give the folder `model_repository` of a checkout of the project with --template"
        )
    return template


def check_template(template: Path) -> None:
    """Raise RepositoryError unless every model of `MODELS` is there."""
    missing = [model for model in MODELS if not (template / model / "config.pbtxt").is_file()]
    if missing:
        raise RepositoryError(
            f"{template} is not the model repository template: no config.pbtxt for {', '.join(missing)}; "
            "wanted the folder `model_repository` of the project"
        )


def holds_repository(folder: Path) -> bool:
    """Whether a folder holds a repository of ours, or at least some of its models."""
    return any((folder / model).is_dir() for model in MODELS)


def version_folders(repository: Path, model: str) -> set[int]:
    """Numbers of a model's version folders, as Triton finds them."""
    folder = repository / model
    entries = folder.iterdir() if folder.is_dir() else ()
    return {int(entry.name) for entry in entries if entry.is_dir() and VERSION_NAME.fullmatch(entry.name)}


def complete_versions(repository: Path) -> list[int]:
    """Versions that every model has, ascending; an interrupted run may leave others.

    Raises:
        RepositoryError: `repository` is not one of ours, or no version is complete.
    """
    missing = [model for model in MODELS if not (repository / model / "config.pbtxt").is_file()]
    if missing:
        raise RepositoryError(
            f"{repository} is no model repository of this project: no config.pbtxt for {', '.join(missing)}; "
            "`sparseinst-export repository --onnx ... --out DIR` writes one"
        )
    versions = set.intersection(*(version_folders(repository, model) for model in MODELS))
    if not versions:
        raise RepositoryError(f"no version in {repository} is there for every model; write the repository anew")
    return sorted(versions)


def config_files(repository: Path, model: str) -> list[Path]:
    """config.pbtxt of a model, then those of its presets by name."""
    folder = repository / model
    return [folder / "config.pbtxt", *sorted((folder / "configs").glob("*.pbtxt"))]
