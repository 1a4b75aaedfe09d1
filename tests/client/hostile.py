"""A server that lies, over gRPC and HTTP, as a process of its own: what it does to a picture is the model's name.

    python hostile.py [certificate key]      writes the two ports on one line

It speaks KServe's protocol honestly enough to get a client to read; it is the attacker of the tests, no stand-in for
Triton. Its pictures have 32x32 pixels, its model ten instances and a batch of 8.
"""

from __future__ import annotations

import json
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

from sparseinst_runtime import Contract

CONTRACT = Contract(classes=("bear", "deer"), category_ids=(1, 2), max_instances=10).to_json()
WHOLE = b"0PP1"  # the run lengths 0, 1024: all of the picture
MIB = 2**20


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def array(*values, dtype=np.float32) -> bytes:
    return np.array(values, dtype).tobytes()


HONEST = {
    "scores": ("FP32", [1, 1], array(0.5)),
    "labels": ("INT32", [1, 1], array(1, dtype=np.int32)),
    "boxes": ("FP32", [1, 1, 4], array(0, 0, 32, 32)),
    "masks": ("BYTES", [1, 1], strings(WHOLE)),
    "image_size": ("INT32", [1, 2], array(32, 32, dtype=np.int32)),
    "count": ("INT32", [1, 1], array(1, dtype=np.int32)),
}
INT = np.int32

# Replies with tensors that are not what the contract says: what is put in the place of an honest one.
LIES = {
    "a_shape_of_petabytes": {"scores": ("FP32", [2**25, 2**25], array(0.5))},
    "a_shape_that_overflows": {"scores": ("FP32", [2**31 - 1] * 7, array(0.5))},
    "a_negative_shape": {"scores": ("FP32", [-1, -1], array(0.5))},
    "a_shape_beyond_64_bits": {"scores": ("FP32", [2**62, 4], b"")},
    "a_shape_of_a_thousand_sides": {"scores": ("FP32", [1] * 1000, array(0.5))},
    "too_few_bytes": {"boxes": ("FP32", [1, 1, 4], array(0, 0, 32))},
    "scores_of_another_dtype": {"scores": ("FP64", [1, 1], array(0.5, dtype=np.float64))},
    "scores_as_strings": {"scores": ("BYTES", [1, 1], strings(b"0.5"))},
    "masks_as_numbers": {"masks": ("INT32", [1, 1], array(7, dtype=INT))},
    "an_unheard_of_dtype": {"scores": ("FP3" * 1000, [1, 1], array(0.5))},
    "another_batch": {name: (dtype, [2, *shape[1:]], data * 2) for name, (dtype, shape, data) in HONEST.items()},
    "more_instances_than_the_model_has": {"scores": ("FP32", [1, 11], array(*[0.5] * 11))},
    "a_count_beyond_the_list": {"count": ("INT32", [1, 1], array(2, dtype=INT))},
    "a_negative_count": {"count": ("INT32", [1, 1], array(-1, dtype=INT))},
    "a_score_that_is_none": {"scores": ("FP32", [1, 1], array(np.nan))},
    "a_label_of_no_class": {"labels": ("INT32", [1, 1], array(2, dtype=INT))},
    "a_box_without_end": {"boxes": ("FP32", [1, 1, 4], array(0, 0, np.inf, 32))},
    "a_box_that_is_none": {"boxes": ("FP32", [1, 1, 4], array(0, 0, np.nan, 32))},
    "a_box_outside": {"boxes": ("FP32", [1, 1, 4], array(0, 0, 33, 32))},
    "another_picture": {"image_size": ("INT32", [1, 2], array(64, 16, dtype=INT))},
    "a_picture_of_a_petabyte": {"image_size": ("INT32", [1, 2], array(2**25, 2**25, dtype=INT))},
    "a_mask_of_another_size": {"masks": ("BYTES", [1, 1], strings(b"0PPl0"))},
    "a_mask_with_a_negative_run": {"masks": ("BYTES", [1, 1], strings(b"PP1OPP1"))},
    "a_mask_of_huge_runs": {"masks": ("BYTES", [1, 1], strings(b"oooooo7" * 100))},
    "a_mask_without_end": {"masks": ("BYTES", [1, 1], strings(b"0" * (8 * MIB)))},
    "a_mask_number_without_end": {"masks": ("BYTES", [1, 1], strings(b"o" * (8 * MIB)))},
    "no_mask": {"masks": ("BYTES", [1, 1], strings(b""))},
    "a_mask_of_no_digits": {"masks": ("BYTES", [1, 1], strings(b"\xff\x00"))},
    "a_string_of_four_gigabytes": {"masks": ("BYTES", [1, 1], b"\xff\xff\xff\xff0")},
    "strings_without_number": {"masks": ("BYTES", [1, 12 * MIB], strings(b"") * (12 * MIB))},
    "more_strings_than_said": {"masks": ("BYTES", [1, 1], strings(b"") * MIB)},
    "numbers_without_number": {"scores": ("FP32", [1, MIB], bytes(4 * MIB))},
    "a_tensor_missing": {"masks": None},
    "a_thousand_tensors": {f"extra{number}": HONEST["count"] for number in range(1000)},
}

# Of a configuration: parameters, or data type and dims of a tensor.
_OTHER_VERSION = CONTRACT.replace('"version": 1', '"version": 2')
CONFIG_LIES = {
    "no_contract": {"contract": None},
    "a_contract_of_another_version": {"contract": _OTHER_VERSION},
    "a_contract_that_is_no_json": {"contract": "{" * 100_000},
    "a_contract_that_nests": {"contract": "[" * 100_000},
    "masks_that_are_pixels": {"output": ("masks", "TYPE_UINT8", [-1, 80, 80])},
    "boxes_of_five": {"output": ("boxes", "TYPE_FP32", [-1, 5])},
    "no_threshold": {"input": ("score_threshold", None, [])},
    "a_smaller_batch": {"max_batch_size": 4},
}
_INPUTS = {"image": ("TYPE_STRING", [1]), "score_threshold": ("TYPE_FP32", [1]), "max_instances": ("TYPE_INT32", [1])}
_OUTPUTS = {
    "scores": ("TYPE_FP32", [-1]),
    "labels": ("TYPE_INT32", [-1]),
    "boxes": ("TYPE_FP32", [-1, 4]),
    "masks": ("TYPE_STRING", [-1]),
    "image_size": ("TYPE_INT32", [2]),
    "count": ("TYPE_INT32", [1]),
}

_asked: Counter[str] = Counter()
_lock = threading.Lock()


def tensors(model: str) -> dict:
    merged = HONEST | LIES.get(model, {})
    return {name: tensor for name, tensor in merged.items() if tensor is not None}


def refuses(model: str) -> bool:
    """Whether a model named busy_N_X turns this request away, as it does with its first N."""
    with _lock:
        _asked[model] += 1
        return model.startswith("busy_") and _asked[model] <= int(model.split("_")[1])


def hangs(model: str, size: int) -> bool:
    """Whether it never answers a request of so many bytes."""
    return model == "hangs" or (model == "hangs_on_noise" and size > 2000)


def config(model: str) -> dict:
    lie = CONFIG_LIES.get(model, {})
    sides = {"input": dict(_INPUTS), "output": dict(_OUTPUTS)}
    for side, tensors_of_side in sides.items():
        if side in lie:
            name, dtype, dims = lie[side]
            tensors_of_side[name] = (dtype, dims)
    described = {
        side: [{"name": name, "data_type": dtype, "dims": dims} for name, (dtype, dims) in of.items() if dtype]
        for side, of in sides.items()
    }
    contract = lie.get("contract", CONTRACT)
    parameters = {} if contract is None else {"contract": {"string_value": contract}}
    return {"name": model, "max_batch_size": lie.get("max_batch_size", 8), "parameters": parameters} | described


def grpc_config(model: str) -> bytes:
    wanted, reply = config(model), service_pb2.ModelConfigResponse()
    reply.config.max_batch_size = wanted["max_batch_size"]
    for key, value in wanted["parameters"].items():
        reply.config.parameters[key].string_value = value["string_value"]
    for side in ("input", "output"):
        for tensor in wanted[side]:
            number = model_config_pb2.DataType.Value(tensor["data_type"])
            getattr(reply.config, side).add(name=tensor["name"], data_type=number, dims=tensor["dims"])
    return reply.SerializeToString() + (bytes(2 * MIB) if model == "a_huge_configuration" else b"")


def grpc_infer(model: str, size: int, context: grpc.ServicerContext) -> bytes:
    if refuses(model):
        context.abort(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
    if hangs(model, size):
        while context.is_active():
            time.sleep(0.02)
    if model == "says_what_it_was_told":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, repr(dict(context.invocation_metadata()).get("authorization")))
    if model == "talks_without_end":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "blah " * 1000)
    if model == "a_huge_reply":
        return bytes(80 * MIB)
    if model == "garbage":
        return b"\xff" * 1000
    if model == "a_bomb_of_descriptions":
        return b"\x2a\x00" * (24 * MIB)  # outputs, empty, again and again
    if model == "a_bomb_in_a_description":
        shape = b"\x1a" + _varint(40 * MIB) + bytes(40 * MIB)
        return b"\x2a" + _varint(len(shape)) + shape
    if model == "a_bomb_of_contents":
        return b"\x32\x00" * (24 * MIB)
    if model == "contents_of_nothing":
        return service_pb2.ModelInferResponse(raw_output_contents=[b"x"]).SerializeToString()
    if model == "compressed":
        context.set_compression(grpc.Compression.Gzip)
        return bytes(4 * MIB)
    reply = service_pb2.ModelInferResponse(model_name=model)
    for name, (dtype, shape, data) in tensors(model).items():
        reply.outputs.add(name=name, datatype=dtype, shape=shape)
        reply.raw_output_contents.append(data)
    return reply.SerializeToString()


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if name == "ModelConfig":
                model = service_pb2.ModelConfigRequest.FromString(request).name
                while model == "hangs_before_all" and context.is_active():
                    time.sleep(0.02)
                return grpc_config(model)
            if name == "ModelInfer":
                return grpc_infer(service_pb2.ModelInferRequest.FromString(request).model_name, len(request), context)
            context.abort(grpc.StatusCode.UNIMPLEMENTED, name)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


class HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        model = self.path.split("/")[3]
        if model == "hangs_before_all":
            time.sleep(30)
        body = json.dumps(config(model)).encode()
        self.reply(body + (b" " * 2 * MIB if model == "a_huge_configuration" else b""))

    def do_POST(self):
        model = self.path.split("/")[3]
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        if refuses(model):
            self.reply(b'{"error": "Exceeds maximum queue size"}', status=503)
        elif model == "says_what_it_was_told":
            self.reply(json.dumps({"error": repr(self.headers["Authorization"])}).encode(), status=400)
        elif model == "talks_without_end":
            self.reply(json.dumps({"error": "blah " * 1000}).encode(), status=400)
        elif model == "a_huge_reply":
            self.flood(80 * MIB, {"Content-Length": str(80 * MIB)})
        elif model == "a_huge_refusal":
            self.flood(80 * MIB, {"Content-Length": str(80 * MIB)}, status=400)
        elif model == "a_reply_without_end":
            self.flood(10_000 * MIB, {"Connection": "close"})
        elif model == "headers_without_end":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * (64 * MIB))
        elif model == "garbage":
            self.reply(b"\xff" * 1000)
        elif model == "a_header_longer_than_the_reply":
            self.reply(b"{}", {"Inference-Header-Content-Length": "1000000000"})
        elif model == "a_bomb_of_descriptions":
            body = b'{"outputs": [' + b"[],[]," * (8 * MIB) + b"[]]}"
            self.reply(body, {"Inference-Header-Content-Length": str(len(body))})
        elif model == "a_description_that_nests":
            body = b"[" * 60_000
            self.reply(body, {"Inference-Header-Content-Length": str(len(body))})
        elif model == "compressed":
            self.reply(b"\x1f\x8b\x08" + bytes(1000), {"Content-Encoding": "gzip"})
        elif hangs(model, size):
            time.sleep(3)
        elif model == "drips":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(100):
                self.wfile.write(b"X")
                time.sleep(0.03)
        elif model == "leaves_in_the_middle":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            described, data = [], b""
            for name, (dtype, shape, contents) in tensors(model).items():
                size = {"binary_data_size": len(contents)}
                described.append({"name": name, "datatype": dtype, "shape": shape, "parameters": size})
                data += contents
            header = json.dumps({"outputs": described}).encode()
            self.reply(header + data, {"Inference-Header-Content-Length": str(len(header))})

    def reply(self, body, headers=None, status=200):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def flood(self, size, headers, status=200):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in range(size // MIB):
            self.wfile.write(bytes(MIB))


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """The client has left, as it should."""


@contextmanager
def attacker(*arguments: object) -> Iterator[dict[str, str]]:
    """The server, in a process of its own; gives its URL by protocol."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        grpc_port, http_port = process.stdout.readline().split()
        yield {"grpc": f"grpc://127.0.0.1:{grpc_port}", "http": f"http://127.0.0.1:{http_port}"}
        process.stdin.close()


def main() -> None:
    http = HttpServer(("127.0.0.1", 0), HttpHandler)
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((Handler(),))
    if sys.argv[1:]:
        certificate, key = sys.argv[1:]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=http.serve_forever, daemon=True).start()
    sys.stdout.write(f"{port} {http.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the tests close it
    server.stop(0)


if __name__ == "__main__":
    main()
