"""A client that talks to a hostile server gets instances that add up or a SparseInstError, in time; never more."""

from __future__ import annotations

import json
import random
import socket
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sparseinst_client import Client, SparseInstError

PICTURE = np.full((8, 12, 3), 128, np.uint8)


# What the real one says of the ensemble, as far as clients read it.
SAYS = {
    "name": "sparseinst",
    "max_batch_size": 8,
    "input": [
        {"name": "image", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "score_threshold", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
        {"name": "max_instances", "data_type": "TYPE_INT32", "dims": [1], "optional": True},
    ],
    "output": [
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1]},
        {"name": "labels", "data_type": "TYPE_INT32", "dims": [-1]},
        {"name": "boxes", "data_type": "TYPE_FP32", "dims": [-1, 4]},
        {"name": "masks", "data_type": "TYPE_STRING", "dims": [-1]},
        {"name": "image_size", "data_type": "TYPE_INT32", "dims": [2]},
        {"name": "count", "data_type": "TYPE_INT32", "dims": [1]},
    ],
}


class Liar(threading.Thread):
    """An HTTP server of one connection at a time, whose replies are true about the contract and damaged otherwise."""

    def __init__(self, contract: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.config = json.dumps(SAYS | {"parameters": {"contract": {"string_value": contract}}}).encode()
        self.random = random.Random(seed)
        self.replies = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                try:
                    self.serve(connection)
                except OSError:  # the client has had enough
                    continue

    def serve(self, connection: socket.socket) -> None:
        """Answer until a reply was such that nothing sensible can follow on the connection."""
        connection.settimeout(5)
        file = connection.makefile("rb")
        while line := file.readline():
            length = 0
            while (header := file.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            file.read(length)
            if line.startswith(b"GET"):
                connection.sendall(message(self.config))
                continue
            self.replies += 1
            connection.sendall(damaged(answer(), self.random))
            return

    def __enter__(self) -> Liar:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.listener.close()


def answer() -> bytes:
    """What a sound server says to that picture: one instance, all of it."""
    tensors = {
        "scores": ("FP32", [1, 1], np.float32([0.9]).tobytes()),
        "labels": ("INT32", [1, 1], np.int32([0]).tobytes()),
        "boxes": ("FP32", [1, 1, 4], np.float32([0, 0, 12, 8]).tobytes()),
        "masks": ("BYTES", [1, 1], (3).to_bytes(4, "little") + b"0P3"),
        "image_size": ("INT32", [1, 2], np.int32([8, 12]).tobytes()),
        "count": ("INT32", [1, 1], np.int32([1]).tobytes()),
    }
    outputs = [
        {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (dtype, shape, data) in tensors.items()
    ]
    head = json.dumps({"model_name": "sparseinst", "model_version": "1", "outputs": outputs}).encode()
    body = head + b"".join(data for _, _, data in tensors.values())
    return message(body, f"Inference-Header-Content-Length: {len(head)}\r\n".encode())


def message(body: bytes, headers: bytes = b"") -> bytes:
    """An HTTP reply."""
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return start + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def damaged(reply: bytes, rng: random.Random) -> bytes:
    """The same reply with a few places changed, numbers of sizes and shapes most of all."""
    broken = bytearray(reply)
    digits = [at for at, byte in enumerate(broken) if chr(byte).isdigit()]
    for _ in range(rng.randint(0, 3)):
        what = rng.randint(0, 4)
        at = min(rng.choice(digits), len(broken)) if what < 2 else rng.randrange(len(broken) + 1)
        if what == 0:
            broken[at : at + 1] = rng.choice((b"0", b"9", b"-1", b"99999999999", b"1e9", b"null", b'"x"'))
        elif what == 1:
            broken[at : at + 1] = b"%d" % rng.randrange(10)
        elif what == 2:
            broken[at : at + 1] = rng.randbytes(1)
        elif what == 3:
            del broken[at : at + rng.randint(1, 9)]
        elif rng.random() < 0.2:
            del broken[at:]
    return bytes(broken)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_what_a_hostile_server_says_is_an_answer_or_an_error_of_ours(bundled_model: Path, seed):
    with Liar((bundled_model / "contract.json").read_text(), seed) as liar:
        outcomes = set()
        for _ in range(100):
            with closing(Client(liar.url, timeout=0.5)) as client:
                try:
                    (instances,) = client.segment_batch([PICTURE])
                except SparseInstError as error:
                    outcomes.add(type(error).__name__)
                else:
                    assert instances.masks().shape == (len(instances), 8, 12)
                    outcomes.add("answer")
        assert liar.replies >= 100
    assert {"answer", "ReplyError"} <= outcomes
