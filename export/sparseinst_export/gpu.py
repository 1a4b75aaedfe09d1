"""The GPU of this process, asked of NVIDIA's driver; neither torch nor another package is needed.

Device 0 it is, as CUDA_VISIBLE_DEVICES leaves it. Not verified on a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from sparseinst_export.verify import ExportError

DRIVER = "libcuda.so.1"  # comes with the driver; containers get it from the NVIDIA Container Toolkit
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR} of cuda.h
NAME_BYTES = 256


class GpuMissingError(ExportError):
    """No GPU can be used here; the message says what was found instead."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as NVIDIA sells it.
        compute_capability: of its architecture, as in "8.9".
        memory: in bytes.
        driver: the newest CUDA version that its driver takes, as in "13.0".
    """

    name: str
    compute_capability: str
    memory: int
    driver: str


def current_gpu() -> Gpu:
    """The GPU that a plan is built for.

    Raises:
        GpuMissingError: no driver, or a driver that shows no GPU.
    """
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise _missing(f"NVIDIA's driver is not here ({error})") from error
    if code := cuda.cuInit(0):
        raise _missing(f"the driver does not start (cuInit gives {code})")
    count, device, driver = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        raise _missing(f"the driver shows {count.value} GPUs")
    name, memory = ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    codes = [
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDriverGetVersion(ctypes.byref(driver)),
        cuda.cuDeviceGetName(name, NAME_BYTES, device),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device),
    ]
    if any(codes):
        raise _missing(f"the driver does not describe its GPU (error codes {codes})")
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory=memory.value,
        driver=f"{driver.value // 1000}.{driver.value % 1000 // 10}",
    )


def _missing(found: str) -> GpuMissingError:
    return GpuMissingError(
        f"no GPU here: {found}; a plan is built on the GPU that serves it "
        "(in a container: docker run --gpus all), and CUDA_VISIBLE_DEVICES must not hide it"
    )
