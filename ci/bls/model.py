"""`sparseinst` as a Python model that calls the network: what ci/bench_structures.py compares the served ways with.

Decoding and masks are in this process, the network is a model of its own, called from here (business logic scripting).
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
from sparseinst_runtime.metrics import Metrics
from sparseinst_runtime.triton import Arrays, ModelArguments, each_picture, padded

THREADS = 3  # one in the network, one before it and one behind it


class TritonPythonModel:
    """One process of Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract."""
        arguments = ModelArguments(args)
        self.contract, self.limits = arguments.contract, arguments.limits()
        cv2.setNumThreads(1)
        metrics = Metrics(pb_utils, args)
        self.deferred = Deferred(pb_utils, [self.answer] * THREADS, arguments.number("longest_wait_ms") / 1000, metrics)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests; threads answer them."""
        self.deferred.take(requests)

    def finalize(self) -> None:
        """Answer what was taken."""
        self.deferred.finish()

    def answer(self, inputs: Arrays) -> Arrays:
        """`image` object [B, 1] -> the instances, padded to the longest list."""
        return padded(each_picture(len(inputs["image"]), lambda i: self.instances(inputs["image"][i, 0])))

    def instances(self, file: bytes) -> Instances:
        """The instances of one picture."""
        pixels, letterbox = decode_letterboxed(file, self.contract.input_size, self.contract.pad_colour, self.limits)
        names = [spec.name for spec in self.contract.outputs]
        tensor = pb_utils.Tensor(self.contract.input.name, pixels[np.newaxis])
        request = pb_utils.InferenceRequest(
            model_name="sparseinst_network", requested_output_names=names, inputs=[tensor]
        )
        answer = request.exec()
        if answer.has_error():
            raise RuntimeError(answer.error().message())
        scores, labels, masks = (pb_utils.get_output_tensor_by_name(answer, name).as_numpy()[0] for name in names)
        thresholds = {
            "score_threshold": self.contract.score_threshold,
            "mask_threshold": self.contract.mask_threshold,
        }
        return segment(scores, labels, masks, letterbox, **thresholds)
