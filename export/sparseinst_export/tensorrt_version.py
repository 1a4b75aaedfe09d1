"""Versions of TensorRT: which one is here, which one serves, and whether a plan of one runs on the other."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

OLDEST = 10  # major version; strongly typed networks are whole from then on
IMAGE_VARIABLE = "TRT_VERSION"  # set in NVIDIA's images for Triton and TensorRT, as in 11.1.0.106
NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:\.(\d+))?(?:[-+].*)?")  # 10.3.0, 10.3.0.26, 10.3.0.26-1+cuda12.5


@dataclass(frozen=True)
class ServerVersion:
    """The TensorRT that serves.

    Attributes:
        version: as in 10.3.0 or 10.3.0.26.
        source: where it was read.
    """

    version: str
    source: str


def tensorrt_library() -> Any:
    """The module `tensorrt`.

    Raises:
        ExportError: the package is not installed, or older than this project builds with.
    """
    try:
        import tensorrt  # noqa: PLC0415, where NVIDIA's package is installed
    except ImportError as error:
        raise ExportError(
            f"the package tensorrt cannot be imported ({error}); NVIDIA's image nvcr.io/nvidia/tensorrt has it, and "
            "PyPI's tensorrt-cu12 and tensorrt-cu13 download it from NVIDIA's own index. Take the version of the "
            "server. The Triton images have trtexec; deploy/build_engine/build_plan.py uses what is there"
        ) from error
    version = str(tensorrt.__version__)
    if numbers(version)[0] < OLDEST:
        raise ExportError(f"the package tensorrt is {version}; wanted 10 or 11, which Triton serves with since 24.05")
    return tensorrt


def server_version(asked: str | None, environment: Mapping[str, str] = os.environ) -> ServerVersion | None:
    """The version that a plan must fit: what was asked for, else that of the image this runs in; None if unknown.

    Raises:
        ExportError: what was asked for is no version.
    """
    if asked is not None:
        numbers(asked)
        return ServerVersion(asked, "--server-version")
    given = environment.get(IMAGE_VARIABLE, "")
    return ServerVersion(given, f"{IMAGE_VARIABLE} of this image") if NUMBERS.fullmatch(given) else None


def runs_on(built: str, runtime: str, version_compatible: bool) -> bool:
    """Whether a plan that one version built runs on another.

    A plan runs on its own version; a version compatible one also on newer ones. Where only one of the two names its
    fourth number, three count.
    """
    pairs = list(zip(numbers(built), numbers(runtime), strict=False))
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    return theirs >= ours if version_compatible else theirs == ours


def numbers(version: str) -> tuple[int, ...]:
    """The three or four numbers of a version.

    Raises:
        ExportError: it is not written like one.
    """
    found = NUMBERS.fullmatch(version)
    if not found:
        raise ExportError(f"{version!r} is no version of TensorRT; wanted three or four numbers, as in 10.3.0.26")
    return tuple(int(number) for number in found.groups() if number is not None)
