"""sparseinst on a CPU: the whole way of a picture in one process, from the file's bytes to instances.

Only the CPU presets load this; elsewhere `sparseinst` is an ensemble, and Triton passes over this file.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.decode import decode_letterboxed
from sparseinst_runtime.deferred import Deferred
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment
from sparseinst_runtime.metrics import DECODE, INSTANCES, MASKS, QUEUED, Metrics
from sparseinst_runtime.openvino_engine import Engine
from sparseinst_runtime.triton import (
    Arrays,
    ModelArguments,
    RequestError,
    each_picture,
    max_instances,
    padded,
    score_threshold,
)


class TritonPythonModel:
    """One process of Triton's Python backend; `configs/cpu.pbtxt` says how it computes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph that the config names; raises ContractError when graph, contract and config disagree."""
        arguments = ModelArguments(args)
        engine = Engine(arguments)
        cv2.setNumThreads(engine.threads)
        # One more thread than the engine computes pictures at a time: it decodes the next while those compute.
        metrics = Metrics(pb_utils, args, DECODE, MASKS, INSTANCES, *QUEUED)
        answers = [Pipeline(arguments, engine, metrics).answer for _ in range(engine.streams + 1)]
        self.deferred = Deferred(pb_utils, answers, arguments.number("longest_wait_ms") / 1000, metrics)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; threads answer them."""
        self.deferred.take(requests)

    def finalize(self) -> None:
        """Answer what was taken."""
        self.deferred.finish()


class Pipeline:
    """One thread's way from requests to answers."""

    def __init__(self, arguments: ModelArguments, engine: Engine, metrics: Metrics) -> None:
        self.contract, self.limits, self.metrics = arguments.contract, arguments.limits(), metrics
        self.infer = engine.request()

    def answer(self, inputs: Arrays) -> Arrays:
        """`image` object [B, 1] and thresholds -> the instances, padded to the longest list."""
        if "image" not in inputs:  # Triton counts a request's inputs, optional ones included, and takes that for enough
            raise RequestError("the request has no input image; wanted the bytes of one picture file, BYTES [1]")
        return padded(each_picture(len(inputs["image"]), lambda i: self.instances(inputs, i)))

    def instances(self, inputs: Arrays, picture: int) -> Instances:
        """The instances of one picture of the batch; raises PictureError or RequestError."""
        threshold = score_threshold(inputs, picture, self.contract.score_threshold)
        most = max_instances(inputs, picture)
        with self.metrics.timed(DECODE):
            pixels, letterbox = decode_letterboxed(
                inputs["image"][picture, 0], self.contract.input_size, self.contract.pad_colour, self.limits
            )
        outputs = self.infer({self.contract.input.name: pixels[np.newaxis]})
        scores, labels, masks = (outputs[spec.name][0] for spec in self.contract.outputs)
        with self.metrics.timed(MASKS):
            found = segment(
                scores,
                labels,
                masks,
                letterbox,
                score_threshold=threshold,
                mask_threshold=self.contract.mask_threshold,
                max_instances=most,
            )
        self.metrics.observe(INSTANCES, len(found))
        return found
