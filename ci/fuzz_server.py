"""Send hostile requests to a running Triton, over HTTP and gRPC, and judge what comes back.

    .venv-serve/bin/python ci/with_server.py .venv/bin/python ci/fuzz_server.py --count 3000 --seed 1

Requests are made from a good one by breaking it: fields, types, shapes, sizes, encodings, paths, framing. Each must be
answered in time, by a status that says whose fault it is, and with words that tell nothing of the server's insides; and
a good picture must come through all along. A request is a function of its seed, which a failure names. Bodies stay
below a megabyte and JSON nests less than a hundred deep: the local Triton 2.51 itself falls to more.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sparseinst_client import Client, SparseInstError

ROOT = Path(__file__).resolve().parents[1]
PICTURE = (ROOT / "assets" / "scenes" / "images" / "scene_00.jpg").read_bytes()
SECONDS = 20.0  # for an answer
BLAMES_THE_REQUEST = {400, 403, 404, 405, 411, 413, 414, 415, 417}
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
INSIDES = ("Traceback", ".py", "site-packages", "/models", "/tmp", "model_repository", str(ROOT))  # noqa: S108
NUMBERS = (0, -1, 1, 2, 9, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), 1e308, 0.5)
TEXTS = ("", "x", "\0", "é" * 100, "%s%n", "../" * 9, "A" * 5000, "sparseinst", "-1", "null", "\ud7ff")
MODELS = ("sparseinst", "sparseinst_pixels", "sparseinst_preprocess", "sparseinst_network", "sparseinst_postprocess")


@dataclass(frozen=True)
class Hostile:
    """An HTTP request; a body in `headers` terms may lie about itself."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def good(rng: random.Random) -> tuple[str, dict[str, Any], bytes]:
    """A sound request to some model: its name, the JSON before the binary tensors, and those."""
    if rng.random() < 0.6:
        picture = PICTURE if rng.random() < 0.5 else broken_bytes(PICTURE[:4000], rng)
        tensor = len(picture).to_bytes(4, "little") + picture
        image = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
        options = [
            {"name": "score_threshold", "shape": [1, 1], "datatype": "FP32", "data": [0.3]},
            {"name": "max_instances", "shape": [1, 1], "datatype": "INT32", "data": [5]},
        ]
        return "sparseinst", {"inputs": [image, *rng.sample(options, rng.randint(0, 2))]}, tensor
    size = {"name": "image_size", "shape": [1, 2], "datatype": "INT32", "data": [480, 640]}
    values = [rng.choice((0, 255, 7)) for _ in range(rng.choice((0, 3, 300)))]
    pixels = {"name": "pixels", "shape": [1, 320, 320, 3], "datatype": "UINT8", "data": values}
    return rng.choice(MODELS[1:]), {"inputs": [pixels, size]}, b""


def hostile(rng: random.Random) -> Hostile:
    """One request, broken somewhere, or sound by chance."""
    kind = rng.random()
    if kind < 0.15:
        return strange_path(rng)
    model, head, binary = good(rng)
    for _ in range(rng.randint(0, 3)):
        head = broken_json(head, rng)
    text = json.dumps(head).encode("utf-8", errors="replace")
    if rng.random() < 0.2:
        text = broken_bytes(text, rng)
    headers = {"Content-Type": rng.choice(("application/octet-stream", "application/json", "text/html", ""))}
    if binary and rng.random() < 0.95:
        headers["Inference-Header-Content-Length"] = str(
            len(text) if rng.random() < 0.9 else rng.choice((-1, 0, 1, len(text) + 1, 2**31, 2**63, "x"))
        )
    body = text + (binary if rng.random() < 0.9 else broken_bytes(binary, rng))
    if rng.random() < 0.1:
        headers["Content-Encoding"] = rng.choice(("gzip", "deflate", "br", "gzip, gzip"))
        body = gzip.compress(body) if rng.random() < 0.5 else body
    return Hostile("POST", f"/v2/models/{model}/infer", body, headers)


def strange_path(rng: random.Random) -> Hostile:
    """A door that is not there, is shut, or is there under a strange name."""
    parts = ("v2", "models", "infer", "versions", "config", "stats", "health", "ready", "repository", "index", "trace")
    more = ("..", "%2e%2e", "%00", "", "a" * 2000, "systemsharedmemory", "logging", "load", "generate", "1", "metrics")
    path = "/" + "/".join(rng.choice((*parts, *more, *MODELS)) for _ in range(rng.randint(0, 7)))
    method = rng.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"))
    body = json.dumps(broken_json({"key": "/x", "byte_size": 64, "offset": 0}, rng)).encode("utf-8", "replace")
    return Hostile(method, path, body if method in ("POST", "PUT") else b"")


def broken_json(value: Any, rng: random.Random) -> Any:
    """The same document with one place in it replaced, removed, added, doubled or nested."""
    places = [place for place in walk(value) if place]
    if not places:
        return strange_value(rng)
    *way, last = rng.choice(places)
    copy = json.loads(json.dumps(value))
    parent = copy
    for step in way:
        parent = parent[step]
    what = rng.randint(0, 4)
    if what == 0:
        del parent[last]
    elif what == 1 and isinstance(parent, list):
        parent.append(parent[last])
    elif what == 2 and isinstance(parent, dict):
        parent[rng.choice(("parameters", "shared_memory_region", "binary_data_size", "priority", "timeout", "x"))] = (
            strange_value(rng)
        )
    elif what == 3:
        for _ in range(rng.choice((1, 3, 60))):
            parent[last] = [parent[last]]
    else:
        parent[last] = strange_value(rng)
    return copy


def walk(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every place of a document."""
    yield way
    steps = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for step, inside in steps:
        yield from walk(inside, (*way, step))


def strange_value(rng: random.Random) -> Any:
    """Something of any type."""
    return rng.choice(
        (rng.choice(NUMBERS), rng.choice(TEXTS), None, True, [], {}, [rng.choice(NUMBERS)] * 3, {"a": []})
    )


def broken_bytes(data: bytes, rng: random.Random) -> bytes:
    """The same bytes with some changed, cut off or doubled."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(broken) + 1)
        what = rng.randint(0, 3)
        if what == 0:
            broken[at : at + 1] = rng.randbytes(1)
        elif what == 1:
            del broken[at : at + rng.randint(1, 64)]
        elif what == 2:
            broken[at:at] = broken[at // 2 : at // 2 + rng.randint(1, 64)]
        elif rng.random() < 0.3:
            del broken[at:]
    return bytes(broken)


def ask_http(address: str, request: Hostile) -> tuple[str, str]:
    """Status and body of the answer; a framing that the server hangs up on counts as `closed`."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    try:
        connection.request(request.method, request.path.replace(" ", "%20"), request.body, request.headers)
        answer = connection.getresponse()
        return str(answer.status), answer.read().decode(errors="replace")
    except ConnectionRefusedError:
        raise
    except (http.client.HTTPException, ConnectionError):
        return "closed", ""
    finally:
        connection.close()


def ask_socket(address: str, rng: random.Random) -> tuple[str, str]:
    """Something that is hardly HTTP; the server may hang up, and is not waited for where it waits for us."""
    lines = [
        b"POST /v2/models/sparseinst/infer HTTP/1.1",
        b"Host: x",
        b"Content-Length: %d" % rng.choice((0, 5, 10**12)),
    ]
    lines += [rng.choice((b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"A" * 9000, b"\0\xff", b": x"))]
    rng.shuffle(lines)
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        try:
            connection.sendall(broken_bytes(b"\r\n".join(lines) + b"\r\n\r\n{}", rng))
            connection.shutdown(socket.SHUT_WR)
            words = connection.recv(4096).split(b"\r\n")[0].split()
        except TimeoutError:
            raise
        except OSError:
            return "closed", ""
    return (words[1].decode() if len(words) > 1 and words[1].isdigit() else "closed"), ""


def ask_grpc(stub: Any, rng: random.Random) -> tuple[str, str]:
    """Code and words of the answer to a ModelInfer that is broken somewhere."""
    request = service_pb2.ModelInferRequest(model_name=rng.choice((*MODELS, *TEXTS[:6])))
    for name in rng.sample(
        ("image", "pixels", "image_size", "score_threshold", "max_instances", "x"), rng.randint(0, 4)
    ):
        tensor = request.inputs.add(name=name, datatype=rng.choice(("BYTES", "UINT8", "INT32", "FP32", "X", "")))
        tensor.shape.extend(rng.choice(((1, 1), (1, 2), (1, 320, 320, 3), (-1,), (2**62, 4), (), (0,), (9, 1))))
        if rng.random() < 0.3:
            tensor.parameters["shared_memory_region"].string_param = rng.choice(TEXTS[:6])
        elif rng.random() < 0.2:
            tensor.contents.fp32_contents.extend([0.1] * rng.randint(0, 5))
        else:
            content = rng.choice((b"", b"\0" * 4, b"\xff" * 8, len(PICTURE).to_bytes(4, "little") + PICTURE))
            request.raw_input_contents.append(content)
    if rng.random() < 0.3:
        request.outputs.add(name=rng.choice(("scores", "x", "")))
    if rng.random() < 0.2:
        request.parameters[rng.choice(("timeout", "priority", "sequence_id", "x"))].int64_param = rng.choice(
            NUMBERS[:6]
        )
    try:
        stub.ModelInfer(request, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def judge(status: str, said: str) -> str:
    """Why an answer is none that we may give; empty for a good one."""
    if leaks := [inside for inside in INSIDES if inside in said]:
        return f"the answer shows {leaks}: {said[:300]}"
    if (
        status in CODES
        or status in {"200", "100", "closed"}
        or (status.isdigit() and int(status) in BLAMES_THE_REQUEST)
    ):
        return ""
    return f"answered with {status}: {said[:300]}"


def attack(http_url: str, grpc_url: str, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send requests one after the other.

    Returns:
        How often each protocol answered with each status, and a sentence for each failure.
    """
    address, counts, failures = urlsplit(http_url).netloc, Counter[str](), list[str]()
    with grpc.insecure_channel(urlsplit(grpc_url).netloc) as channel, Client(grpc_url) as client:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ways: dict[str, Callable[[random.Random], tuple[str, str]]] = {
            "http": lambda rng: ask_http(address, hostile(rng)),
            "socket": lambda rng: ask_socket(address, rng),
            "grpc": lambda rng: ask_grpc(stub, rng),
        }
        for number in range(count):
            rng = random.Random(f"{seed}/{number}")
            way = rng.choices(tuple(ways), weights=(70, 5, 25))[0]
            try:
                status, said = ways[way](rng)
                problem = judge(status, said)
            except TimeoutError:
                status, problem = "no answer", f"no answer within {SECONDS:g} s"
            except ConnectionRefusedError:
                failures.append(f"after request {number - 1} of seed {seed} nobody listens any more")
                break
            counts[f"{way} {status}"] += 1
            if problem:
                failures.append(f"request {number} of seed {seed}, {way}: {problem}")
            if number % 100 == 99 and (problem := silence(client)):
                failures.append(f"after request {number} of seed {seed} no picture comes through: {problem}")
                break
    return counts, failures


def silence(client: Client) -> str:
    """Why a good picture gets no answer; empty where it gets one."""
    try:
        return client.health(timeout=SECONDS).problem
    except SparseInstError as error:
        return str(error)


def main() -> int:
    """Attack the server that SPARSEINST_URL and SPARSEINST_HTTP_URL name; 0 when it stood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    urls = os.environ["SPARSEINST_HTTP_URL"], os.environ["SPARSEINST_URL"]
    counts, failures = attack(*urls, count=options.count, seed=options.seed)
    listed = ", ".join(f"{answer} {count}" for answer, count in sorted(counts.items()))
    sys.stdout.write(f"fuzz: server: {sum(counts.values())} requests, {len(failures)} failures ({listed})\n")
    for failure in failures[:20]:
        sys.stdout.write(f"  {failure}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
