"""sparseinst_postprocess: the network's scores, labels and mask maps become instances of the original pictures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment
from sparseinst_runtime.metrics import INSTANCES, MASKS, Metrics
from sparseinst_runtime.triton import (
    ModelArguments,
    each_picture,
    image_size,
    max_instances,
    padded,
    respond,
    score_threshold,
)


class TritonPythonModel:
    """One process of Triton's Python backend; `config.pbtxt` says how many there are."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract and the limits; raises ContractError when contract and config disagree."""
        arguments = ModelArguments(args)
        self.contract = arguments.contract
        arguments.check(inputs=self.contract.outputs)
        self.limits = arguments.limits()
        self.metrics = Metrics(pb_utils, args, MASKS, INSTANCES)
        cv2.setNumThreads(1)  # instances run in parallel already

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request by itself."""
        return respond(pb_utils, requests, self.postprocess, self.metrics)

    def finalize(self) -> None:
        """Deliver what was counted."""
        self.metrics.close()

    def postprocess(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network's outputs and `image_size` int32 [B, 2] -> the ensemble's outputs, padded to the longest list."""
        return padded(each_picture(len(inputs["image_size"]), lambda i: self.instances(inputs, i)))

    def instances(self, inputs: dict[str, np.ndarray], picture: int) -> Instances:
        """The instances of one picture of the batch; raises PictureError or RequestError."""
        height, width = image_size(inputs, picture, self.limits)
        threshold = score_threshold(inputs, picture, self.contract.score_threshold)
        most = max_instances(inputs, picture)
        with self.metrics.timed(MASKS):
            found = segment(
                inputs["scores"][picture],
                inputs["labels"][picture],
                inputs["masks"][picture],
                Letterbox.fit(height, width, self.contract.input_size),
                score_threshold=threshold,
                mask_threshold=self.contract.mask_threshold,
                max_instances=most,
            )
        self.metrics.observe(INSTANCES, len(found))
        return found
