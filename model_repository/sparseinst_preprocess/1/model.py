"""sparseinst_preprocess: encoded pictures become letterboxed pixels and the pictures' sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from sparseinst_runtime.decode import decode_letterboxed
from sparseinst_runtime.metrics import DECODE, Metrics
from sparseinst_runtime.triton import ModelArguments, each_picture, respond


class TritonPythonModel:
    """One process of Triton's Python backend; `config.pbtxt` says how many there are."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract and the limits; raises ContractError when contract and config disagree."""
        arguments = ModelArguments(args)
        self.contract = arguments.contract
        arguments.check(outputs=[replace(self.contract.input, name="pixels")])
        self.limits = arguments.limits()
        self.metrics = Metrics(pb_utils, args, DECODE)
        cv2.setNumThreads(1)  # instances run in parallel already

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request by itself."""
        return respond(pb_utils, requests, self.preprocess, self.metrics)

    def finalize(self) -> None:
        """Deliver what was counted."""
        self.metrics.close()

    def preprocess(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`image` object [B, 1] -> `pixels` uint8 [B, S, S, 3], `image_size` int32 [B, 2]."""
        files = inputs["image"][:, 0]
        pictures = each_picture(len(files), lambda i: self.letterbox(files[i]))
        pixels, sizes = zip(*pictures, strict=True)
        return {"pixels": np.stack(pixels), "image_size": np.array(sizes, np.int32)}

    def letterbox(self, file: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        """Pixels uint8 [S, S, 3] and (height, width) of one picture file; raises PictureError."""
        size, colour = self.contract.input_size, self.contract.pad_colour
        with self.metrics.timed(DECODE):
            pixels, letterbox = decode_letterboxed(file, size, colour, self.limits)
        return pixels, (letterbox.height, letterbox.width)
