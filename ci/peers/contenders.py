"""Who takes part: each takes the bytes of a picture and gives instances as COCO run lengths in the picture's own frame.

All get the same JPEG bytes, the same threads and the same limit of instances; what they decode and resize with is their
own, as their users have it. A contender is made in the process that runs it, and imports there what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparseinst_runtime import Contract


@dataclass(frozen=True)
class Model:
    """A network, ready for every contender.

    Attributes:
        name: for people.
        weights: safetensors file.
        graph: ONNX file in float32.
        int8: ONNX file with int8 layers, where one was given.
        repository: what Triton serves: preset `cpu`, and `cpu-int8` where there is an int8 graph.
        trained: whether the weights are.
    """

    name: str
    weights: Path
    graph: Path
    int8: Path | None
    repository: Path
    trained: bool

    @property
    def contract(self) -> Contract:
        """That of graph and weights."""
        return Contract.load(self.graph.with_name("contract.json"))


@dataclass(frozen=True)
class Answer:
    """What a contender found in one picture.

    Attributes:
        size: height and width of the picture.
        masks: COCO's compressed run-length counts, the best score first.
        scores: float32, one for each mask.
    """

    size: tuple[int, int]
    masks: tuple[bytes, ...]
    scores: NDArray[np.float32]


Segment = Callable[[bytes], Answer]


@dataclass(frozen=True)
class Setting:
    """What all contenders of a comparison share.

    Attributes:
        model: ours, whose input size the others take too.
        instances: the most that any gives for a picture.
        threads: that each may compute on.
        pictures: a few files, for contenders that set their thresholds by pictures.
        url: of the server, for who asks it.
    """

    model: Model
    instances: int
    threads: int
    pictures: tuple[bytes, ...]
    url: str = ""


class NotHereError(RuntimeError):
    """A contender that cannot take part on this machine; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One who takes part.

    Attributes:
        name: for people.
        make: gives the function that segments, in the contender's own process.
        preset: of the server that it asks; None for who asks none.
        concurrency: requests at a time; above 1 their latency says little.
        ours: whether it is a part of this project.
        same_weights: whether it runs the model's own, so that its masks can be held against others'.
        about: what it does, in half a sentence.
    """

    name: str
    make: Callable[[Setting], Segment]
    preset: str | None = None
    concurrency: int = 1
    ours: bool = False
    same_weights: bool = False
    about: str = ""


def served(setting: Setting) -> Segment:
    """The ensemble of a running server, over gRPC."""
    from sparseinst_client import Client  # noqa: PLC0415

    client = Client(setting.url)

    def segment(picture: bytes) -> Answer:
        found = client.segment(picture, score_threshold=0.0, max_instances=setting.instances)
        return Answer(found.image_size, found.rles, found.scores)

    return segment


def engine(setting: Setting) -> Segment:
    """The steps that are served, in this process: decode, letterbox, OpenVINO, segment."""
    return _engine(setting, setting.model.graph)


def engine_int8(setting: Setting) -> Segment:
    """The same with the int8 graph."""
    assert setting.model.int8 is not None
    return _engine(setting, setting.model.int8)


def _engine(setting: Setting, graph: Path) -> Segment:
    import cv2  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    from sparseinst_runtime.decode import decode  # noqa: PLC0415
    from sparseinst_runtime.geometry import Letterbox  # noqa: PLC0415
    from sparseinst_runtime.masks import segment as to_instances  # noqa: PLC0415

    cv2.setNumThreads(setting.threads)
    contract, core = setting.model.contract, openvino.Core()
    settings = {  # as configs/cpu.pbtxt has them
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(setting.threads),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()

    def segment(picture: bytes) -> Answer:
        pixels = decode(picture)
        letterbox = Letterbox.fit(pixels.shape[0], pixels.shape[1], contract.input_size)
        framed = letterbox.apply(pixels, contract.pad_colour)
        results = request.infer({contract.input.name: framed[None]}, share_inputs=True)
        scores, labels, masks = (results[spec.name][0] for spec in contract.outputs)
        found = to_instances(
            scores,
            labels,
            masks,
            letterbox,
            score_threshold=0.0,
            mask_threshold=contract.mask_threshold,
            max_instances=setting.instances,
        )
        return Answer(found.image_size, found.rles, found.scores)

    return segment
