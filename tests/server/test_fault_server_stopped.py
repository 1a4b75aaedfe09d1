"""A whole server goes away, in good order or not: callers who ask again do not notice, and connections heal."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

from under_load import Load, answered, same, supervised, triton_under

from sparseinst_client import Client
from sparseinst_server import TritonServer


class Front(socketserver.ThreadingTCPServer):
    """One address for several servers, as a Service of Kubernetes: each connection goes to the next that takes it."""

    daemon_threads = True

    def __init__(self, ports: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.ports, self.number = ports, count()


class Connection(socketserver.BaseRequestHandler):
    """One connection, passed on byte by byte until either side ends it."""

    def handle(self) -> None:
        first = next(self.server.number)
        for i in range(len(self.server.ports)):
            with suppress(OSError):
                address = ("127.0.0.1", self.server.ports[(first + i) % len(self.server.ports)])
                with socket.create_connection(address) as server:
                    back = threading.Thread(target=pass_on, args=(server, self.request), daemon=True)
                    back.start()
                    pass_on(self.request, server)
                    back.join()
                return


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def in_front_of(*servers: TritonServer) -> Iterator[str]:
    """The gRPC address of a front."""
    with Front([int(server.grpc_url.rpartition(":")[2]) for server in servers]) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield f"grpc://127.0.0.1:{front.server_address[1]}"
        front.shutdown()


def test_a_server_stopped_under_load_costs_no_request_where_a_second_one_is(repository, serve_python, expected):
    with (
        TritonServer(repository, python=serve_python, grace=4) as first,
        TritonServer(repository, python=serve_python, grace=4) as second,
        in_front_of(first, second) as url,
        Load(url, expected, callers=6, timeout=20, retries=20) as load,
    ):
        assert load.goes_on(20)
        # Callers of one process share a connection, so one of the two does all the work.
        busy, idle = sorted((first, second), key=lambda server: answered(server.http_url), reverse=True)
        before = answered(idle.http_url)
        busy.stop()  # SIGTERM, and waits for its end
        assert load.goes_on(20)
        assert answered(idle.http_url) > before
    assert not load.failures
    assert not load.wrong
    assert not load.surprises


def test_a_killed_triton_is_started_again_and_clients_reconnect(repository, serve_python, expected, tmp_path):
    picture, wanted = next(iter(expected.items()))
    with (
        supervised(serve_python, repository, f"--log={tmp_path / 'log'}") as server,
        Client(server.url["grpc"], retries=20) as over_grpc,
        Client(server.url["http"], retries=20) as over_http,
    ):
        for client in (over_grpc, over_http):
            assert same(client.segment(picture), wanted)
        triton_under(server.pid).kill()
        for client in (over_grpc, over_http):  # the first one asks while nobody is there
            assert same(client.segment(picture, timeout=30), wanted)
        server.says("answers again, .* Triton was started again", 10)
        assert (tmp_path / "log.1").stat().st_size > 0, "what the killed one said is kept"
