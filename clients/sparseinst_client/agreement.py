"""Whether a model that is served is one that this client can talk to, checked at the first call."""

from __future__ import annotations

from collections.abc import Mapping

from sparseinst_client.errors import ReplyError
from sparseinst_client.wire import Served
from sparseinst_runtime.contract import Contract, ContractError, TensorSpec

_INPUTS = (
    TensorSpec("image", "STRING", (1,)),
    TensorSpec("score_threshold", "FP32", (1,)),
    TensorSpec("max_instances", "INT32", (1,)),
)
_OUTPUTS = (
    TensorSpec("scores", "FP32", (-1,)),
    TensorSpec("labels", "INT32", (-1,)),
    TensorSpec("boxes", "FP32", (-1, 4)),
    TensorSpec("masks", "STRING", (-1,)),
    TensorSpec("image_size", "INT32", (2,)),
    TensorSpec("count", "INT32", (1,)),
)


def agree(served: Served, where: str) -> Contract:
    """The contract of a served model that takes and gives what this client sends and reads.

    Args:
        served: what the server says of the model.
        where: "'sparseinst' at grpc://host:8001", for messages.

    Raises:
        ReplyError: no contract, one of another version, or tensors of another name, dtype or shape; names all of them.
    """
    text = served.parameters.get("contract")
    if text is None:
        raise ReplyError(f"the configuration of {where} holds no contract; assemble it with sparseinst-export")
    try:
        contract = Contract.from_json(text, source=f"the contract of {where}")
    except (ContractError, RecursionError) as error:
        raise ReplyError(str(error)) from error
    differences = [*_differences("input", served.inputs, _INPUTS), *_differences("output", served.outputs, _OUTPUTS)]
    if served.max_batch_size < contract.max_batch_size:
        differences.append(f"max_batch_size is {served.max_batch_size}; its contract has {contract.max_batch_size}")
    if differences:
        raise ReplyError(f"{where} is not a model for this client: {'; '.join(differences)}")
    return contract


def _differences(kind: str, got: Mapping[str, TensorSpec], wanted: tuple[TensorSpec, ...]) -> list[str]:
    found = []
    for spec in wanted:
        other = got.get(spec.name)
        if other != spec:
            is_ = "missing" if other is None else f"{other.dtype} {list(other.shape)}"
            found.append(f"{kind} {spec.name} is {is_}; wanted {spec.dtype} {list(spec.shape)}")
    return found
