"""What the `model.py` files of the model repository share: contract, values of a request, ragged answers, errors.

Everything takes and gives plain NumPy arrays, so it runs without a server. Triton's own module, which exists only
inside its Python backend, is handed to `respond`, the one function that talks to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparseinst_runtime.checksums import verified
from sparseinst_runtime.contract import Contract, ContractError, TensorSpec
from sparseinst_runtime.events import failure
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Limits, PictureError, Reason
from sparseinst_runtime.metrics import CANCELLED, FAILED, REJECTED, Metrics

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")


class RequestError(ValueError):
    """A value in a request that cannot be taken; the message is a sentence for whoever sent it.

    Attributes:
        reason: the kind of refusal.
    """

    def __init__(self, message: str, reason: Reason = "value") -> None:
        super().__init__(message)
        self.reason: Reason = reason


class ModelArguments:
    """What Triton hands to `initialize`, opened: the version folder, its contract, the model's configuration.

    Raises:
        ContractError: the contract cannot be read, or is not the one that was assembled.

    Attributes:
        version_folder: where `model.py` lies, and `contract.json` beside it.
        contract: the contract of this version.
        config: the model configuration that Triton chose, as parsed JSON.
    """

    def __init__(self, args: Mapping[str, str]) -> None:
        self.version_folder = Path(args["model_repository"], args["model_version"])
        self.contract = Contract.load(self.version_folder / "contract.json")
        verified(self.version_folder, "contract.json")
        self.config: dict[str, Any] = json.loads(args["model_config"])

    def check(self, inputs: Iterable[TensorSpec] = (), outputs: Iterable[TensorSpec] = ()) -> None:
        """Hold the configuration's tensors against what the contract says of them.

        Raises:
            ContractError: a tensor is missing or has another dtype or shape, or the batch is larger than the engine's.
        """
        remedy = "assemble the repository again with `sparseinst-export repository`"
        for kind, specs in (("input", inputs), ("output", outputs)):
            configured = {t["name"]: f"{t['data_type']} {list(map(int, t['dims']))}" for t in self.config[kind]}
            for spec in specs:
                got, wanted = configured.get(spec.name, "missing"), f"TYPE_{spec.dtype} {list(spec.shape)}"
                if got != wanted:
                    raise ContractError(
                        f"{kind} {spec.name} is {got} by the configuration, {wanted} by contract.json; {remedy}"
                    )
        batch, largest = int(self.config["max_batch_size"]), self.contract.max_batch_size
        if batch > largest:
            raise ContractError(f"max_batch_size is {batch} by the configuration, {largest} by contract.json; {remedy}")

    def graph(self) -> Path:
        """The ONNX graph that the configuration's parameter `graph` names, as it was assembled.

        Raises:
            ContractError: this version has no such file, or it is not the one that was assembled.
        """
        path = self.version_folder / self.parameter("graph")
        if not path.is_file():
            raise ContractError(
                f"version {self.version_folder.name} has no {path.name}, which this preset serves; "
                "give it to `sparseinst-export repository`, or start Triton with another --model-config-name"
            )
        return verified(self.version_folder, path.name)

    def parameter(self, name: str) -> str:
        """The text of a `parameters` entry of the configuration; raises ContractError where there is none."""
        try:
            return str(self.config["parameters"][name]["string_value"])
        except KeyError as error:
            raise ContractError(f"the configuration has no parameter {name}; the template documents it") from error

    def number(self, name: str) -> int:
        """The same as a whole number, at least 1; raises ContractError where it is none."""
        text = self.parameter(name)
        if not text.isdecimal() or int(text) < 1:
            raise ContractError(f"the configuration's parameter {name} is {text!r}; wanted a whole number, at least 1")
        return int(text)

    def limits(self) -> Limits:
        """`Limits` with the values that the configuration names in `max_bytes`, `max_pixels` and `max_side`."""
        names = ("max_bytes", "max_pixels", "max_side")
        named: dict[str, Any] = {name: int(self.parameter(name)) for name in names if name in self.config["parameters"]}
        return replace(Limits(), **named)


def respond(
    pb_utils: Any, requests: Iterable[Any], answer: Callable[[Arrays], Arrays], metrics: Metrics | None = None
) -> list[Any]:
    """Answer every request by itself, so that a bad one fails alone and in words.

    Args:
        pb_utils: Triton's module `triton_python_backend_utils`.
        requests: its InferenceRequest objects.
        answer: from a request's inputs to its outputs, by name. PictureError and RequestError become INVALID_ARGUMENT
            with their message. Anything else is our fault: the log is told, the client gets one general sentence.
        metrics: counts what is not answered.

    Returns:
        An InferenceResponse for each request, in their order.
    """
    return [_respond_one(pb_utils, request, answer, metrics) for request in requests]


def _respond_one(pb_utils: Any, request: Any, answer: Callable[[Arrays], Arrays], metrics: Metrics | None) -> Any:
    if request.is_cancelled():
        return cancelled(pb_utils, metrics)
    return response(pb_utils, answer, lambda: _inputs(request), metrics, request.request_id())


def _inputs(request: Any) -> Arrays:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def response(
    pb_utils: Any,
    answer: Callable[[Arrays], Arrays],
    inputs: Callable[[], Arrays],
    metrics: Metrics | None = None,
    request_id: str = "",
) -> Any:
    """The InferenceResponse to one request: `answer` of its inputs, or the error that either of them raised."""
    try:
        outputs = answer(inputs())
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
    except (PictureError, RequestError) as error:
        if metrics is not None:
            metrics.count(REJECTED, error.reason)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
    except Exception as error:  # whatever it is, this request alone fails, and its client learns nothing of our insides
        if metrics is not None:
            metrics.count(FAILED)
        failure("request_failed", error, request_id=request_id, **(metrics.labels if metrics else {}))
        sentence = "the server failed on this request, and its log says why; other requests are not affected"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence, pb_utils.TritonError.INTERNAL))


def cancelled(pb_utils: Any, metrics: Metrics | None = None) -> Any:
    """The InferenceResponse to a request whose client has left, or whose deadline has passed: nobody reads it."""
    if metrics is not None:
        metrics.count(CANCELLED)
    error = pb_utils.TritonError("the request was cancelled", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)


def each_picture(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(i)` for each picture of a client's batch; errors name the picture, counted from 1.

    Raises:
        RequestError: `work` raised PictureError or RequestError. With one picture the message is left as it is.
    """
    results = []
    for i in range(count):
        try:
            results.append(work(i))
        except (PictureError, RequestError) as error:
            where = f"picture {i + 1} of {count}: " if count > 1 else ""
            raise RequestError(f"{where}{error}", error.reason) from error
    return results


def image_size(inputs: Arrays, picture: int, limits: Limits) -> tuple[int, int]:
    """`image_size` of one picture: (height, width), within the limits.

    Raises:
        RequestError: a side below 1 or beyond `limits.max_side`, or more than `limits.max_pixels` pixels.
    """
    height, width = (int(side) for side in inputs["image_size"][picture])
    if not (1 <= height <= limits.max_side and 1 <= width <= limits.max_side and height * width <= limits.max_pixels):
        raise RequestError(
            f"image_size is [{height}, {width}]; wanted height and width of 1 to {limits.max_side} pixels each "
            f"and at most {limits.max_pixels:,} in all"
        )
    return height, width


def score_threshold(inputs: Arrays, picture: int, default: float) -> float:
    """`score_threshold` of one picture in [0, 1], or the default where the request has none; raises RequestError."""
    if "score_threshold" not in inputs:
        return default
    threshold = float(inputs["score_threshold"][picture, 0])
    if not 0 <= threshold <= 1:  # NaN, too, is not in there
        raise RequestError(f"score_threshold is {threshold:g}; wanted a number in [0, 1]")
    return threshold


def max_instances(inputs: Arrays, picture: int) -> int | None:
    """`max_instances` of one picture, at least 1, or None where the request has none; raises RequestError."""
    if "max_instances" not in inputs:
        return None
    most = int(inputs["max_instances"][picture, 0])
    if most < 1:
        raise RequestError(f"max_instances is {most}; wanted at least 1, or leave it out for all")
    return most


def padded(batch: Sequence[Instances]) -> dict[str, NDArray[Any]]:
    """The instances of B pictures as the ensemble's outputs, padded to the longest list K.

    Returns:
        scores float32 [B, K] (0 where padded), labels int32 [B, K] (-1), boxes float32 [B, K, 4] (0),
        masks object [B, K] of bytes (empty), image_size int32 [B, 2] (height, width), count int32 [B, 1].
    """
    pictures, most = len(batch), max(len(instances) for instances in batch)
    scores = np.zeros((pictures, most), np.float32)
    labels = np.full((pictures, most), -1, np.int32)
    boxes = np.zeros((pictures, most, 4), np.float32)
    masks = np.full((pictures, most), b"", np.object_)
    for i, instances in enumerate(batch):
        k = len(instances)
        scores[i, :k], labels[i, :k], boxes[i, :k] = instances.scores, instances.labels, instances.boxes
        masks[i, :k] = instances.rles
    return {
        "scores": scores,
        "labels": labels,
        "boxes": boxes,
        "masks": masks,
        "image_size": np.array([instances.image_size for instances in batch], np.int32),
        "count": np.array([[len(instances)] for instances in batch], np.int32),
    }
