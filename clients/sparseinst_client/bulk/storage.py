"""Pictures and results on a disk or in a bucket, by Arrow: Parquet files that are whole, or not there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from sparseinst_client.folder import SUFFIXES
from sparseinst_client.journal import disagreement
from sparseinst_runtime.files import atomic_write

# A line of `sparseinst-client folder`, as a row.
_INSTANCE = pa.struct(
    {
        "category_id": pa.int32(),
        "class": pa.string(),
        "score": pa.float32(),
        "bbox": pa.list_(pa.float32()),  # x, y, width, height in pixels
        "area": pa.int64(),  # pixels
        "segmentation": pa.struct({"size": pa.list_(pa.int32()), "counts": pa.string()}),  # COCO's run lengths
    }
)
SCHEMA = pa.schema(
    {
        "file_name": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "instances": pa.list_(_INSTANCE),
        "error": pa.string(),
    }
)
_SETTINGS = b"sparseinst"  # key of the settings in the metadata of a file
_BUCKETS = ("s3://", "gs://", "gcs://", "abfs://", "abfss://")
_PART = re.compile(r"part-\d{5,}-of-(\d{5,})\.parquet")
_STRANGE = "is no result of this command; name another folder, or remove it"
_READERS = 16  # small files of a bucket that are read at a time


@dataclass(frozen=True)
class Folder:
    """A folder on this machine, or a bucket or a part of one; `Folder.at` makes it from what a user wrote.

    Attributes:
        name: as the user wrote it, for messages.
        filesystem: of Arrow; it can be pickled and finds its credentials where its SDK looks for them.
        path: within the file system, without a slash at the end.
    """

    name: str
    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, place: str) -> Folder:
        """The folder at a path, or at s3://bucket/path, gs://bucket/path or abfs://container@account/path.

        Raises:
            ValueError: another kind of place, or one without a bucket.
        """
        if "://" not in place:
            return cls(place, fs.LocalFileSystem(), str(Path(place).absolute()))
        if not place.startswith(_BUCKETS):
            raise ValueError(f"{place}: wanted a folder of this machine, or {', '.join(_BUCKETS)}")
        filesystem, path = fs.FileSystem.from_uri(place)
        if not path.strip("/"):
            raise ValueError(f"{place} names no bucket; wanted {place.partition('://')[0]}://bucket/path")
        return cls(place, filesystem, path.rstrip("/"))

    def files(self, *, recursive: bool) -> list[str]:
        """Names of the files, relative to the folder, in order; none where there is no folder.

        Raises:
            OSError: it cannot be listed.
        """
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(self.path) + 1 :] for info in found if info.type == fs.FileType.File)

    def pictures(self) -> list[str]:
        """Names of all pictures, those in folders inside it too, in order.

        Raises:
            ValueError: there are none.
            OSError: it cannot be listed.
        """
        names = [name for name in self.files(recursive=True) if name.lower().endswith(SUFFIXES)]
        if not names:
            raise ValueError(f"{self.name} holds no pictures; wanted files that end in one of {', '.join(SUFFIXES)}")
        return names

    def holds(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool(self.filesystem.get_file_info(f"{self.path}/{name}").type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_stream(f"{self.path}/{name}", compression=None) as file:
            return bytes(file.read())

    def write(self, name: str, data: pa.Buffer) -> None:
        """Write a file whole or not at all: a bucket shows an object only when its upload is complete."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            Path(self.path).mkdir(parents=True, exist_ok=True)
            atomic_write(Path(self.path, name), data)
        else:
            with self.filesystem.open_output_stream(f"{self.path}/{name}", compression=None) as file:
                file.write(data)


@dataclass(frozen=True)
class Results:
    """The Parquet files of a run; each picture belongs to one of them, by its name.

    So whoever does a picture once more, be it a worker that takes over from a dead one, a later run or what is left of
    a killed one, writes the same file, and no picture is there twice.

    Attributes:
        out: where the files are.
        settings: what they are made with, ready for JSON; in every file's metadata.
        parts: number of the files.
    """

    out: Folder
    settings: dict[str, Any]
    parts: int

    @classmethod
    def at(cls, out: Folder, settings: dict[str, Any], *, pictures: int, share: int) -> Results:
        """The results that are there already, to go on with, or new ones.

        Args:
            out: where the files are.
            settings: of this run.
            pictures: how many there are.
            share: how many of them a new file takes, about.

        Raises:
            ValueError: there are Parquet files that are no results.
            OSError: the folder cannot be listed.
        """
        numbers = set()
        for name in out.files(recursive=False):
            if name.endswith(".parquet"):
                match = _PART.fullmatch(name)
                if match is None:
                    raise ValueError(f"{out.name}/{name} {_STRANGE}")
                numbers.add(int(match[1]))
        if len(numbers) > 1:
            raise ValueError(
                f"{out.name} holds results in {min(numbers)} and in {max(numbers)} parts; wanted those of one run"
            )
        return cls(out, settings, numbers.pop() if numbers else -(-pictures // share))

    def part_of(self, picture: str) -> int:
        """Number of the file that a picture belongs to, from 0."""
        return int.from_bytes(hashlib.sha256(picture.encode()).digest()[:8], "big") % self.parts

    def done(self) -> dict[str, str | None]:
        """The pictures whose rows are there, with the error of those that could not be segmented.

        Raises:
            ValueError: a file was made with other settings, or is no result.
            OSError: a file cannot be read.
        """
        files = [name for name in self.out.files(recursive=False) if name.endswith(".parquet")]
        done: dict[str, str | None] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for table in pool.map(lambda name: self._read(name, ["file_name", "error"]), files):
                done.update(zip(table["file_name"].to_pylist(), table["error"].to_pylist(), strict=True))
        return done

    def add(self, part: int, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows of pictures of one part to those that its file has.

        Args:
            part: its number.
            rows: as `folder.picture_row` makes them, or a file_name and an error.

        Raises:
            ValueError, OSError: as for `done`, or the file cannot be written.
        """
        name = f"part-{part:05d}-of-{self.parts:05d}.parquet"
        had = self._read(name).to_pylist() if self.out.holds(name) else []
        by_name = {row["file_name"]: row for row in (*had, *rows)}
        metadata = {_SETTINGS: json.dumps(self.settings)}
        table = pa.Table.from_pylist([by_name[key] for key in sorted(by_name)], SCHEMA.with_metadata(metadata))
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        self.out.write(name, sink.getvalue())

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        where = f"{self.out.name}/{name}"
        try:
            # Columns that are not wanted, run lengths above all, need not travel.
            with self.out.filesystem.open_input_file(f"{self.out.path}/{name}") as source:
                file = parquet.ParquetFile(source)
                begun = json.loads((file.schema_arrow.metadata or {})[_SETTINGS])
                table = file.read(columns=columns)
        except (pa.ArrowInvalid, KeyError, ValueError) as error:
            raise ValueError(f"{where} {_STRANGE}") from error
        if difference := disagreement(begun, self.settings):
            raise ValueError(f"{where} was made with {difference}; go on with the same, or name another folder")
        return table
