"""A road to the server that can be closed and opened again: to those at its near end the server goes and comes back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Road:
    """A port that leads to a server once it is open; closed at first, and connections to it are refused."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname, parts.port)
        self._under_way: list[socket.socket] = []
        self._door = _bound(0)
        self._port = self._door.getsockname()[1]
        self.url = f"{parts.scheme}://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Take connections."""
        self._door.listen()
        threading.Thread(target=self._accept, args=(self._door,), daemon=True).start()

    def close(self) -> None:
        """Cut all connections, and take no more."""
        for end in (self._door, *self._under_way):
            _cut(end)
        self._door.close()
        self._under_way.clear()
        self._door = _bound(self._port)

    def _accept(self, door: socket.socket) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = door.accept()
                far = socket.create_connection(self._server)
                self._under_way += (near, far)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


@contextmanager
def road_to(server_url: str) -> Iterator[Road]:
    """A closed road; it is closed again at the end."""
    road = Road(server_url)
    try:
        yield road
    finally:
        road.close()
        road._door.close()


def _bound(port: int) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(("127.0.0.1", port))
    return door


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        _cut(end)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
