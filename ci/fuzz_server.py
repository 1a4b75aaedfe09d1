"""Send hostile requests to a running Triton, over HTTP and gRPC, and judge what comes back.

    .venv-serve/bin/python ci/with_server.py .venv/bin/python ci/fuzz_server.py --count 3000 --seed 1

Requests are made from a good one by breaking it: fields, types, shapes, sizes, encodings, paths, framing. Each must be
answered in time, by a status that says whose fault it is, and with words that tell nothing of the server's insides; and
a good picture must come through all along. A request is a function of its seed, which a failure names. The local
Triton 2.51 has faults of its own, that stay out: it falls to JSON of megabytes, to absurd nesting, and to a JSON tensor
whose shape claims gigabytes; and it answers 500 to JSON that it cannot read.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from fuzz_requests import MODELS, NUMBERS, PICTURE, TEXTS, Hostile, broken_bytes, hostile
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sparseinst_client import Client, SparseInstError

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20.0  # for an answer
BLAMES_THE_REQUEST = {"400", "403", "404", "405", "411", "413", "414", "415", "417", "501"}
OF_THE_PARSER = (  # what Triton's own reader of JSON says with 500
    '{"error":"Unable to parse ',
    '{"error":"failed to parse the request JSON buffer',
    '{"error":"failed to get request params',
)
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
INSIDES = ("Traceback", ".py", "site-packages", "/models", "/tmp", "model_repository/", str(ROOT))  # noqa: S108


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
    if status == "500" and said.startswith(OF_THE_PARSER):
        return ""
    if status in CODES | BLAMES_THE_REQUEST | {"200", "100", "closed"}:
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
