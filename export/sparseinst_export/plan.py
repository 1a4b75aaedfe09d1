"""A TensorRT plan as a function, like the engines of `engines.py`; not verified on a GPU.

It wants the package `tensorrt` in the version that built the plan, and the GPU that it was built for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        plan: what trtexec wrote.
        contract: of the graph it was built from; the outputs come in its order.

    Raises:
        EngineUnavailableError: the package or the GPU is missing.
        ExportError: TensorRT does not take the plan, or its run failed.
        OSError: the file cannot be read.
    """
    import torch  # noqa: PLC0415, seconds to import

    try:
        import tensorrt  # noqa: PLC0415, where NVIDIA's package is installed
    except ImportError as error:
        raise EngineUnavailableError(
            f"the package tensorrt is missing ({error}); NVIDIA's images for Triton and TensorRT bring it"
        ) from error
    if not torch.cuda.is_available():
        raise EngineUnavailableError("torch sees no GPU here; a plan runs on the GPU that it was built for")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
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
