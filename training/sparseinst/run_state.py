"""What a run is made of while it learns; written to `state.pt`, so that a killed run goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparseinst.checkpoint import load_state, save_state
from sparseinst.network import SparseInst

STATE = "state.pt"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass
class Position:
    """Where a run stands: the next step is `step` of epoch `epoch`, number `iteration` of all."""

    epoch: int = 0
    step: int = 0
    iteration: int = 0
    best_ap: float = -1.0


@dataclass(frozen=True)
class Origin:
    """What a resumed run must share with the killed one; the learning rate may differ, to leave a bad stretch behind.

    Passes and processes may be divided in another way as long as a step sees as many pictures: they are the same ones.

    Attributes:
        recipe: its name.
        contract: as JSON.
        seed: of the run.
        epochs: of the schedule.
        batch_size: pictures for one forward pass of one process.
        accumulate: passes for one step.
        processes: that share a step.
        frozen: what never learns, in words.
        sides: that pictures are drawn at, one for each pass.
    """

    recipe: str
    contract: str
    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    processes: int = 1
    frozen: str = "nothing"
    sides: Sequence[int] = ()

    @property
    def total_batch(self) -> int:
        """Pictures for one step of the optimiser."""
        return self.batch_size * self.accumulate * self.processes


@dataclass(frozen=True)
class RunState:
    """The parts that change while a run learns; all of them are changed in place."""

    model: SparseInst
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.GradScaler
    position: Position

    def require_finite(self, folder: Path) -> None:
        """Refuse weights that are not numbers any more, before they take the place of good ones in `folder`.

        Raises:
            TrainingError: they are not finite.
        """
        # One number and one wait for the device. A norm beyond float32 would not train either.
        if not nn.utils.get_total_norm(self.model.parameters()).isfinite():
            raise TrainingError(
                f"the weights are not finite after iteration {self.position.iteration}; they were not written. "
                f"{folder / STATE} is of an earlier step: go on from it with --resume and with a lower --lr"
            )

    def save(self, folder: Path, origin: Origin) -> None:
        """Write `state.pt` atomically.

        Raises:
            TrainingError: the weights are not finite; the file of before is untouched.
        """
        self.require_finite(folder)
        made_with = {name: value for name, value in vars(origin).items() if name not in ("recipe", "contract")}
        made_with["sides"] = list(origin.sides)
        state = {
            "recipe": origin.recipe,
            "arguments": made_with,
            "contract": origin.contract,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position).copy(),
        }
        save_state(folder / STATE, state)

    def load(self, folder: Path, origin: Origin) -> None:
        """Go back to what `state.pt` says.

        Raises:
            TrainingError: there is no state, or it belongs to another recipe, other classes or other arguments.
            CheckpointError: it cannot be read.
        """
        path = folder / STATE
        if not path.is_file():
            raise TrainingError(f"nothing to resume at {path}; start without --resume")
        state = load_state(path)
        if (state["recipe"], state["contract"]) != (origin.recipe, origin.contract):
            raise TrainingError(
                f"{path} is of recipe {state['recipe']!r} or of other classes; "
                "resume with the arguments it was started with"
            )
        _compare(path, Origin(origin.recipe, origin.contract, **state["arguments"]), origin)
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the run did not scale: on the CPU, in bf16, in fp32
            self.scaler.load_state_dict(state["scaler"])
        vars(self.position).update(state["position"])


def _compare(path: Path, then: Origin, now: Origin) -> None:
    changed = [
        f"{name} {getattr(then, name)}, now {getattr(now, name)}"
        for name in ("seed", "epochs", "frozen")
        if getattr(then, name) != getattr(now, name)
    ]
    if list(then.sides) != list(now.sides):
        changed.append(f"sides {list(then.sides)}, now {list(now.sides)}")
    # Where a side is drawn for each pass, as many passes are wanted as well.
    if then.total_batch != now.total_batch or (now.sides and then.accumulate != now.accumulate):
        before, after = (
            f"{o.total_batch} pictures a step ({o.batch_size} x {o.accumulate} passes x {o.processes} processes)"
            for o in (then, now)
        )
        changed.append(f"{before}, now {after}")
    if changed:
        raise TrainingError(f"{path} was made with {', '.join(changed)}; resume with what it was started with")
