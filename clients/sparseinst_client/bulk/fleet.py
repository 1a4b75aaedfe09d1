"""Several servers of the same model, asked as if they were one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from sparseinst_client.client import Client
from sparseinst_client.errors import BadRequest, SparseInstError
from sparseinst_client.pictures import Picture
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances

_AWAY = 10.0  # seconds for which a server that failed is asked last


class Fleet:
    """Clients of servers of the same model; each picture goes to the server with the least to do of ours.

    A server that fails on a picture is asked last for a while, and the picture goes to the next one. Threads may share
    a fleet; it can be pickled, as its clients can.

    Args:
        clients: one for each server.
        contract: what all servers must serve; the first answer sets it when None.
    """

    def __init__(self, clients: Sequence[Client], contract: Contract | None = None) -> None:
        self._clients, self._contract = tuple(clients), contract
        self._lock = threading.Lock()
        self._busy = [0] * len(self._clients)
        self._away_until = [0.0] * len(self._clients)
        self._agreed = [False] * len(self._clients)

    def __reduce__(self) -> tuple[type[Fleet], tuple[tuple[Client, ...], Contract | None]]:
        """Clients and contract; what this process learnt of the servers stays behind."""
        return Fleet, (self._clients, self._contract)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def contract(self) -> tuple[Contract, list[str]]:
        """What the servers serve, and a sentence for each server that does not answer now.

        Raises:
            SparseInstError: none answers; the error of the last one.
            ValueError: two serve different things.
        """
        absent: list[SparseInstError] = []
        for index in range(len(self._clients)):
            try:
                self._agree(index)
            except SparseInstError as error:
                absent.append(error)
        if self._contract is None:
            raise absent[-1]
        return self._contract, [str(error) for error in absent]

    def segment(
        self, picture: Picture, *, score_threshold: float | None = None, max_instances: int | None = None
    ) -> Instances:
        """As `Client.segment`, by the first server that can.

        Raises:
            BadRequest: the picture was refused; no other server is asked.
            SparseInstError: no server could; the error of the last one.
            ValueError: a server serves something else than the others.
        """
        failure: SparseInstError | None = None
        left = set(range(len(self._clients)))
        while left:
            index = self._take(left)
            left.remove(index)
            try:
                self._agree(index)
                return self._clients[index].segment(
                    picture, score_threshold=score_threshold, max_instances=max_instances
                )
            except BadRequest:
                raise
            except SparseInstError as error:
                failure = error
                self._away_until[index] = time.monotonic() + _AWAY
            finally:
                self._give_back(index)
        assert failure is not None, "a fleet has at least one server"
        raise failure

    def _take(self, left: set[int]) -> int:
        now = time.monotonic()
        with self._lock:
            index = min(left, key=lambda one: (self._away_until[one] > now, self._busy[one]))
            self._busy[index] += 1
        return index

    def _give_back(self, index: int) -> None:
        with self._lock:
            self._busy[index] -= 1

    def _agree(self, index: int) -> None:
        """Ask a server for its contract the first time that it is used."""
        if self._agreed[index]:
            return
        client = self._clients[index]
        contract = client.contract()
        with self._lock:
            self._contract = self._contract or contract
        if contract != self._contract:
            raise ValueError(
                f"{client!r} serves {_summary(contract)}, another server {_summary(self._contract)}; "
                "wanted the same model behind every --url"
            )
        self._agreed[index] = True


def _summary(contract: Contract) -> str:
    return f"{contract.name} ({len(contract.classes)} classes, score threshold {contract.score_threshold:g})"
