"""Checksums of a version folder: what is loaded is what assembly put there, or the model does not load.

They lie beside the files, as `SHA256SUMS` in coreutils' own format: `sha256sum --check SHA256SUMS` reads them, and
`sha256sum contract.json model.py ... > SHA256SUMS` writes them anew after a change on purpose. They find mix-ups,
half-copied and damaged files. They are no signature: who can change the files can change them, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from sparseinst_runtime.contract import ContractError
from sparseinst_runtime.files import atomic_write

NAME = "SHA256SUMS"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[^/\\]+)")
_REMEDY = "assemble the repository again with `sparseinst-export repository`"


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: str | os.PathLike[str]) -> Path:
    """Write `SHA256SUMS` of all files in a folder, itself and subfolders left out; gives its path."""
    folder = Path(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and entry.name != NAME)
    return atomic_write(folder / NAME, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def read_checksums(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Digest by file name, as `SHA256SUMS` of a folder has them.

    Raises:
        ContractError: there is none, or a line of it is not `DIGEST  NAME`.
    """
    try:
        lines = Path(folder, NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"no {NAME} to hold the files of {_version(folder)} against; {_REMEDY}") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if wrong := [line for line, match in zip(lines, found, strict=True) if match is None]:
        raise ContractError(f"{NAME} of {_version(folder)} has the line {wrong[0]!r}; wanted DIGEST  NAME; {_REMEDY}")
    return {match["name"]: match["digest"] for match in found if match is not None}


def verified(folder: str | os.PathLike[str], name: str) -> Path:
    """Path of a file that is, byte for byte, what assembly wrote.

    Raises:
        ContractError: `SHA256SUMS` does not name it, or the file is missing or another one.
    """
    path, sums = Path(folder, name), read_checksums(folder)
    if not path.is_file():
        raise ContractError(f"{_version(folder)} has no {name}, only {', '.join(sorted(sums))}; {_REMEDY}")
    if name not in sums:
        raise ContractError(f"{name} of {_version(folder)} is not in {NAME}: assembly did not put it there; {_REMEDY}")
    if (got := sha256(path)) != sums[name]:
        raise ContractError(
            f"{name} of {_version(folder)} is not the file that was assembled: its SHA-256 begins with {got[:8]}, "
            f"{NAME} says {sums[name][:8]}; {_REMEDY}"
        )
    return path


def _version(folder: str | os.PathLike[str]) -> str:
    """`version 3 of sparseinst_network`: never a path, the sentence may reach a client."""
    folder = Path(folder)
    return f"version {folder.name} of {folder.parent.name}"
