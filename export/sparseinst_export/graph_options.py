"""What a graph takes and gives, where that is to differ from what the weights' contract says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from sparseinst_export.inspection import Extra
    from sparseinst_runtime.contract import Contract


@dataclass(frozen=True)
class GraphOptions:
    """Changes to what the weights' contract says.

    Attributes:
        input_size: height and width in pixels, multiples of 32; None leaves the contract's.
        max_instances: how many instances are given out, the best first; None leaves the contract's.
        mask_stride: input pixels per mask pixel, one of 1, 2, 4, 8; None leaves the contract's.
        batch: the one batch size that the graph takes, at least 1; None takes any.
        extras: outputs to look at, behind those that are served; see `inspection`.
    """

    input_size: tuple[int, int] | None = None
    max_instances: int | None = None
    mask_stride: int | None = None
    batch: int | None = None
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a batch that is none."""
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"batch is {self.batch}; wanted at least 1, or none for any")

    @property
    def servable(self) -> bool:
        """Whether a model repository can take the graph: any batch, and nothing but the contract's outputs."""
        return self.batch is None and not self.extras

    def apply(self, contract: Contract) -> Contract:
        """The contract of the graph; ContractError where a value does not hold."""
        given = {name: getattr(self, name) for name in ("input_size", "max_instances", "mask_stride")}
        changed = {name: value for name, value in given.items() if value is not None}
        if self.batch is not None:
            changed["max_batch_size"] = self.batch
        return replace(contract, **changed)


AS_TRAINED = GraphOptions()
