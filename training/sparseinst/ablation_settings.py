"""What all runs of an ablation's folder have in common: written down there, and held against every later call.

Runs that are finished are not repeated, so a folder must never hold rows of different trainings. Datasets and weights
are known by what is in them, not by where they lie: a folder that was moved is the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparseinst_runtime.coco import picture_files
from sparseinst_runtime.files import atomic_write

SETTINGS = "settings.json"
_NAMED = 6  # differences that a message lists; a recipe of another name has dozens


class SettingsError(ValueError):
    """A folder whose runs were made in another way; the message says what differs and what to do."""


def hold_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into the folder's `settings.json`; where runs were begun already, compare first.

    Args:
        out: folder with a folder for each run.
        settings: ready for JSON; a key is what a user knows the setting by.

    Raises:
        SettingsError: the folder's runs were made with other settings, or nobody knows with which.
        OSError: the file cannot be read or written.
    """
    path, text = out / SETTINGS, json.dumps(settings, indent=1) + "\n"
    runs = sorted(folder.name for folder in out.glob("*-seed*") if folder.is_dir() and any(folder.iterdir()))
    if runs:
        _compare(path, json.loads(text), f"{out} holds runs, {runs[0]} first,")
    atomic_write(path, text)


def dataset_settings(annotations: Path, images: Path) -> tuple[str, str]:
    """What tells a dataset from another one: of the annotations their content, of the pictures names and sizes.

    Raises:
        OSError: a file cannot be read.
        ValueError: the annotations are not COCO's instances JSON, or pictures are missing.
    """
    names, total = hashlib.sha256(), 0
    files = picture_files(annotations, images)
    for _, path in files:
        size = path.stat().st_size
        names.update(f"{path.name} {size}\n".encode())
        total += size
    return checksum(annotations), f"{len(files)} pictures of {total} bytes ({names.hexdigest()[:12]})"


def checksum(path: Path) -> str:
    """The beginning of a file's SHA-256; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"SHA-256 {digest.hexdigest()[:16]}"


def _compare(path: Path, settings: Any, runs: str) -> None:
    try:
        before = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{runs} but no {SETTINGS} that says how they were made; remove them, or choose another --out"
        ) from None
    except ValueError as error:
        raise SettingsError(
            f"{runs} and a {SETTINGS} that is not JSON ({error}); remove the runs, or choose another --out"
        ) from error
    differing = list(_differences(before, settings))
    if differing:
        more = f", and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise SettingsError(
            f"{runs} that were made with other settings: {', '.join(differing[:_NAMED])}{more}; go on with what they "
            "were made with, or choose another --out"
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """`name was -> is` for every leaf of two JSON values that differs."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = (dict(enumerate(values)) for values in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name} {_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
