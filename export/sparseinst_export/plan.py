"""A TensorRT plan as a function, like the engines of `engines.py`; not verified on a GPU.

It wants the package `tensorrt` in the version that built the plan, and the GPU that it was built for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sparseinst_export.gpu import current_gpu
from sparseinst_export.plan_report import check_plan, report_of
from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from sparseinst.evaluate import Engine
    from sparseinst_runtime.contract import Contract


class EngineUnavailableError(ExportError):
    """An engine that cannot run on this machine; the message says what it lacks."""


def tensorrt_engine(plan: Path, contract: Contract) -> Engine:
    """The plan on the current GPU.

    Args:
        plan: what `sparseinst-export tensorrt` or trtexec wrote. The report that the former puts beside it is held
            against the TensorRT and the GPU here first.
        contract: of the graph it was built from; the outputs come in its order.

    Raises:
        EngineUnavailableError: the package or the GPU is missing.
        ExportError: by its report the plan was built by or for others, TensorRT does not take it, or its run failed.
        OSError: the file cannot be read.
    """
    import torch  # noqa: PLC0415, seconds to import

    try:
        import tensorrt  # noqa: PLC0415, where NVIDIA's package is installed
    except ImportError as error:
        raise EngineUnavailableError(
            f"the package tensorrt is missing ({error}); NVIDIA's image nvcr.io/nvidia/tensorrt brings it, and PyPI's "
            "tensorrt-cu12 and tensorrt-cu13 download it from NVIDIA's index"
        ) from error
    if not torch.cuda.is_available():
        raise EngineUnavailableError("torch sees no GPU here; a plan runs on the GPU that it was built for")
    report = report_of(plan)
    if report is not None and (hint := check_plan(plan, report, tensorrt.__version__, current_gpu())):
        warnings.warn(hint, stacklevel=2)
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    if report is not None and report.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan brings a part of TensorRT with it, as code
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise ExportError(f"TensorRT {tensorrt.__version__} refuses {plan}; build it with this version on this GPU")
    context = engine.create_execution_context()
    dtypes = {"UINT8": torch.uint8, "INT32": torch.int32, "FP32": torch.float32}
    stream = torch.cuda.Stream()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with torch.cuda.stream(stream):
            given = torch.from_numpy(images).cuda()
            context.set_input_shape(contract.input.name, tuple(images.shape))
            context.set_tensor_address(contract.input.name, given.data_ptr())
            outputs = []
            for spec in contract.outputs:
                output = torch.empty((len(images), *spec.shape), dtype=dtypes[spec.dtype], device="cuda")
                context.set_tensor_address(spec.name, output.data_ptr())
                outputs.append(output)
            if not context.execute_async_v3(stream.cuda_stream):
                raise ExportError(f"TensorRT did not run {plan} for a batch of {len(images)}; its log says why")
            scores, labels, masks = (output.cpu().numpy() for output in outputs)
        return scores, labels, masks

    return run
