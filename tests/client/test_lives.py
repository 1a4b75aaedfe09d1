"""What a client holds lives as long as it should: across threads, event loops, forks, and ends with the client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from under_load import wait_until

from sparseinst_client import AsyncClient, Client, DeadlineExceeded, ServerUnavailable
from sparseinst_client.shared_memory import Region

PICTURE = np.full((32, 32, 3), 128, np.uint8)


def test_closing_a_client_ends_the_calls_that_wait_for_their_turn(url):
    client, caught = Client(url, model="hangs", concurrency=1), []

    def ask():
        try:
            client.segment(PICTURE, timeout=60)
        except Exception as error:
            caught.append(type(error))

    client.contract()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: client._slots._value == 0)
    time.sleep(0.1)  # the other two wait
    client.close()
    for thread in threads:
        thread.join(10)
    assert caught == [ServerUnavailable] * 3


def test_closing_an_asynchronous_client_ends_the_calls_that_wait_for_their_turn(url):
    async def work():
        client = AsyncClient(url, model="hangs", concurrency=1)
        await client.contract()
        calls = [asyncio.ensure_future(client.segment(PICTURE, timeout=60)) for _ in range(3)]
        while client._slots.get()._value:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await client.close()
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    assert [type(outcome) for outcome in asyncio.run(work())] == [ServerUnavailable] * 3


def test_a_stream_that_is_left_before_its_model_is_known_does_not_wait(url):
    """As by Ctrl-C; the server says nothing at all."""
    client = Client(url, model="hangs_before_all", timeout=60)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(iter(client.stream([PICTURE] * 4, in_flight=2)))
    assert time.monotonic() - start < 20
    client.close()


def test_an_asynchronous_client_is_taken_from_loop_to_loop_without_a_word(url, caplog):
    client = AsyncClient(url, model="honest", concurrency=1)

    async def work():
        return await asyncio.gather(*(client.segment(PICTURE) for _ in range(3)))

    for _ in range(3):
        assert [len(found) for found in asyncio.run(work())] == [1, 1, 1]
    asyncio.run(client.close())
    assert caplog.records == []


_FORKS = """
import asyncio, os, sys
import numpy as np
from sparseinst_client import AsyncClient, Client

kind, url = sys.argv[1:]
loop = asyncio.new_event_loop()
client = (Client if kind == "blocking" else AsyncClient)(url, model="honest", timeout=5)

def ask(run):
    found = client.segment(np.full((32, 32, 3), 128, np.uint8))
    return len(found if kind == "blocking" else run(found))

def child():
    try:
        print("child", ask(asyncio.run), flush=True)
    except RuntimeError as error:
        print("child", error, flush=True)
    finally:
        os._exit(0)  # as multiprocessing does

print("parent", ask(loop.run_until_complete), flush=True)
pid = os.fork() or child()
print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
print("parent", ask(loop.run_until_complete), flush=True)
"""


@pytest.mark.parametrize(
    ("protocol", "kind", "child"),
    [
        ("grpc", "blocking", "1"),
        ("http", "blocking", "1"),
        ("http", "asynchronous", "1"),
        ("grpc", "asynchronous", "gRPC under asyncio was in use when this process was forked"),
    ],
)
def test_a_forked_child_has_its_say_and_its_parent_goes_on(urls, protocol, kind, child):
    command = [sys.executable, "-c", _FORKS, kind, urls[protocol]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout.splitlines()
    assert [said[0], *said[2:]] == ["parent 1", "status 0", "parent 1"], done.stderr
    assert said[1].startswith(f"child {child}")


def test_clients_leave_no_file_open_and_no_thread(url):
    def use():
        with Client(url, model="honest") as client:
            client.segment(PICTURE)
        Client(url, model="honest").segment(PICTURE)  # nobody closes it

    def held():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    use()
    before = held()
    for _ in range(20):
        use()
    assert wait_until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), 10)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_the_address_is_where_the_client_goes_whatever_the_environment_says(url, variable, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with Client(url, model="honest", retries=0, timeout=5) as client:
            assert len(client.segment(PICTURE)) == 1


def test_shared_memory_that_does_not_fit_is_an_error_and_no_crash_later():
    total = os.statvfs("/dev/shm")
    before = {path.name for path in Path("/dev/shm").iterdir()}
    with pytest.raises(OSError, match=r"leave shared_memory out"):
        Region(total.f_blocks * total.f_frsize + 2**20)
    assert not [path for path in Path("/dev/shm").glob(f"*-{os.getpid()}-*") if path.name not in before]


def test_saying_goodbye_to_a_server_that_hangs_takes_a_moment_however_much_is_shared():
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        client = Client(f"http://127.0.0.1:{hangs.getsockname()[1]}", shared_memory=True)
        for _ in range(12):
            region = Region(2**12)
            region.registered = True
            client._regions._free.append(region)
        start = time.monotonic()
        client.close()
        assert time.monotonic() - start < 12  # two seconds, and not two for each


_SLOW = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(0.4)
        body = b'{"name": "triton", "version": "2"}' if self.path == "/v2" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_one_deadline_covers_all_that_health_asks():
    with subprocess.Popen([sys.executable, "-c", _SLOW], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            with Client(url) as client, pytest.raises(DeadlineExceeded):
                client.health(timeout=1.0)

            async def work():
                async with AsyncClient(url) as client:
                    await client.health(timeout=1.0)

            with pytest.raises(DeadlineExceeded):
                asyncio.run(work())
        finally:
            process.terminate()
