"""What a worker does with its share of the pictures, and how Ray hands the shares out."""

from __future__ import annotations

import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data

from sparseinst_client.bulk.fleet import Fleet
from sparseinst_client.bulk.storage import Folder, Results
from sparseinst_client.errors import BadRequest, ServerUnavailable, SparseInstError
from sparseinst_client.folder import Outcome, picture_row

_ATTEMPTS = 2  # to start Ray: on a busy machine its processes may miss each other
_SHARE_OF_A_CORE = 0.25  # a worker mostly waits for servers


@dataclass
class Worker:
    """Segments shares of the pictures; Ray makes one in each process.

    Attributes:
        source: of the pictures.
        results: where their rows go.
        fleet: the servers, with the contract that all must serve.
        in_flight: pictures under way at a time.
    """

    source: Folder
    results: Results
    fleet: Fleet
    in_flight: int

    def __call__(self, share: pa.Table) -> pa.Table:
        """Segment the pictures of a share, and write their rows before anybody is told that it is done.

        Args:
            share: one row: the number of a part, and the names of pictures that it lacks.

        Returns:
            One row: the fields of an Outcome.
        """
        part, names = (share[column][0].as_py() for column in ("part", "names"))
        outcome, rows = Outcome(), []
        with ThreadPoolExecutor(self.in_flight) as pool:
            for name, row in zip(names, pool.map(self._row, names), strict=True):
                if isinstance(row, Exception):
                    outcome.failed.append((name, str(row)))
                    continue
                rows.append(row)
                if "error" in row:
                    outcome.refused.append((name, row["error"]))
                else:
                    outcome.done += 1
        if rows:
            try:
                self.results.add(part, rows)
            except (OSError, ValueError) as error:
                outcome = Outcome(failed=[(name, str(error)) for name in names])
        return pa.Table.from_pylist([vars(outcome)], _OUTCOME)

    def _row(self, name: str) -> dict[str, Any] | Exception:
        """The row of a picture; an error where trying again may help."""
        settings = self.results.settings
        try:
            found = self.fleet.segment(
                self.source.read(name),
                score_threshold=settings["score_threshold"],
                max_instances=settings["max_instances"],
            )
        except BadRequest as error:
            return {"file_name": name, "error": str(error)}
        except (SparseInstError, OSError, ValueError) as error:
            return error
        return picture_row(name, found, settings["classes"], settings["category_ids"])


_PAIRS = pa.list_(pa.list_(pa.string()))
_OUTCOME = pa.schema({"done": pa.int64(), "refused": _PAIRS, "failed": _PAIRS})


@contextmanager
def ray_at(address: str) -> Iterator[None]:
    """Ray at the address of a cluster, or, for "local", one of this machine that ends with the block.

    Raises:
        ServerUnavailable: there is no cluster at the address.
    """
    if address not in {"local", "auto"}:
        _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # and warn of what its own Data does
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "90")  # and has 30 s of patience with a busy machine
    alone: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    for attempt in range(_ATTEMPTS if alone else 1):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **alone)
            break
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if not alone or attempt + 1 == _ATTEMPTS:
                raise ServerUnavailable(f"no Ray for --ray {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        wanted = "wanted auto, or HOST:PORT of the cluster's head"
        raise ServerUnavailable(f"no Ray cluster for --ray {address}: {error}; {wanted}") from error


def outcomes(worker: Worker, names: Sequence[str], workers: int) -> Iterator[Outcome]:
    """What becomes of the pictures, share by share, in no order; inside `ray_at`.

    Args:
        worker: what each process is made of.
        names: of the pictures.
        workers: processes.

    Raises:
        ValueError: the cluster has no room for the workers.
        ray.exceptions.RayError: a worker met what it was not made for.
    """
    cores = ray.cluster_resources().get("CPU", 0)
    if workers * _SHARE_OF_A_CORE > cores:
        room = int(cores / _SHARE_OF_A_CORE)
        raise ValueError(f"got {workers} workers, and Ray has {cores:g} cores, room for {room}; wanted fewer workers")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the command has one of its own, in pictures
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    shares: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        shares[worker.results.part_of(name)].append(name)
    tables = [pa.table({"part": [part], "names": [members]}) for part, members in shares.items()]
    data = ray.data.from_arrow(tables).map_batches(
        Worker,
        fn_constructor_kwargs=vars(worker),
        batch_size=None,  # each table as it is
        batch_format="pyarrow",
        num_cpus=_SHARE_OF_A_CORE,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(tables))),
    )
    for row in data.iter_rows():
        yield Outcome(**row)
