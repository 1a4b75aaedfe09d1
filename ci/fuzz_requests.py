"""Hostile HTTP requests for ci/fuzz_server.py: good ones, broken in a place or three, as a random generator says."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = (ROOT / "assets" / "scenes" / "images" / "scene_00.jpg").read_bytes()
MOST_ELEMENTS = 1 << 26  # that a JSON tensor claims
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
    tensor = bytes(rng.choice((320 * 320 * 3, 0, 7)))
    pixels = {"name": "pixels", "shape": [1, 320, 320, 3], "datatype": "UINT8"}
    pixels["parameters"] = {"binary_data_size": len(tensor)}
    return rng.choice(MODELS[1:]), {"inputs": [pixels, size]}, tensor


def hostile(rng: random.Random) -> Hostile:
    """One request, broken somewhere, or sound by chance."""
    kind = rng.random()
    if kind < 0.15:
        return strange_path(rng)
    model, head, binary = good(rng)
    for _ in range(rng.randint(0, 3)):
        broken = broken_json(head, rng)
        head = head if claims_gigabytes(broken) else broken
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
    places = [way for way, _ in walk(value) if way]
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


def claims_gigabytes(head: Any) -> bool:
    """Whether the shape of some tensor stands for more elements than this server survives."""
    shapes = [inside for way, inside in walk(head) if way and way[-1] == "shape" and isinstance(inside, list)]
    sizes = [math.prod(max(abs(side), 1) for side in shape if isinstance(side, (int, float))) for shape in shapes]
    return max(sizes, default=0) > MOST_ELEMENTS


def walk(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a document: the way to it and what is there."""
    yield way, value
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
