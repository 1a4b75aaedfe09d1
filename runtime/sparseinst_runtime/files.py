"""Writing files so that a reader, or a killed writer, never leaves half a file behind."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write a file whole or not at all: readers see the old content or the new, also after a kill or a power cut.

    The data goes to a temporary file in the same folder (a rename is atomic within one file system only), is flushed
    to the disk and then takes the place of `path`.

    Args:
        path: the file to write; its folder must exist. The permissions are those of any new file of this user.
        data: the whole content; text is written as UTF-8.

    Returns:
        The path that was written.

    Raises:
        OSError: the file could not be written; an older file at `path` is untouched and no temporary file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # an interrupt too must not leave the temporary file
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where folders can be opened for that (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
