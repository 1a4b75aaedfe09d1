"""Steps of a small network in each process that torchrun starts; test_distributed.py runs and imports this file.

torchrun --nproc-per-node 2 tests/training/steps_of_processes.py FOLDER
"""

from __future__ import annotations

import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from sparseinst.distributed import World, joined
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst.recipes import get_recipe
from sparseinst.train import RunConfig, Trainer, TrainingError
from sparseinst_runtime import Contract

QUERIES = 7
# Instances of each of four pictures; of two processes the first gets pictures 0 and 2, the second 1 and 3.
SCENARIOS = {
    "plain": (2, 1, 3, 2),
    "second process without an instance": (2, 0, 3, 0),
    "no instance anywhere": (0, 0, 0, 0),
    "one instance in all": (0, 1, 0, 0),
    "more instances than queries": (9, 1, 2, 12),
}
FROZEN = ((), ("backbone.",), ())  # of three steps, one after the other


def pictures(counts: tuple[int, ...]) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """One picture for each count, with so many instances."""
    chance = torch.Generator().manual_seed(3)
    return [
        (
            torch.randint(256, (64, 64, 3), generator=chance, dtype=torch.uint8),
            {
                "labels": torch.randint(3, (count,), generator=chance),
                "masks": torch.rand(count, 16, 16, generator=chance).round(decimals=1),
            },
        )
        for count in counts
    ]


def batches(counts: tuple[int, ...], world: World, passes: int) -> list:
    """The share of a process, in so many passes."""
    mine = pictures(counts)[world.rank :: world.size]
    size = len(mine) // passes
    parts = [mine[i * size : (i + 1) * size] for i in range(passes)]
    return [(torch.stack([image for image, _ in part]), [target for _, target in part]) for part in parts]


def small_trainer(folder: Path, world: World) -> Trainer:
    """The same in each process."""
    decoder = DecoderConfig(classes=3, instances=QUERIES, groups=2, channels=16, depth=1, kernel_dim=8)
    network = NetworkConfig("mobilenet_v2", EncoderConfig(16), decoder)
    contract = Contract(classes=("a", "b", "c"), category_ids=(2, 5, 9), input_size=(64, 64), max_instances=QUERIES)
    recipe = replace(get_recipe("compact"), network=network, input_size=64)
    torch.manual_seed(0)
    config = RunConfig(out=folder, annotations=Path("unused.json"))
    return Trainer(recipe, contract, SparseInst(network), config, world)


def steps(folder: Path, world: World, counts: tuple[int, ...], passes: int = 1) -> dict:
    """Three steps, the second one with a frozen backbone: losses, norms and gradients of each, and what they led to."""
    trainer = small_trainer(folder, world)
    gradients: list[dict[str, torch.Tensor]] = []

    def note(*_) -> None:
        named = trainer.model.named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    trainer.state.optimizer.register_step_pre_hook(note)
    results = []
    for frozen in FROZEN:
        trainer.step.learn_all_but(frozen)
        results.append(trainer.step(batches(counts, world, passes), 1e-4))
        trainer.position.iteration += 1
    return {
        "losses": [step.losses for step in results],
        "norms": [step.gradient_norm for step in results],
        "gradients": gradients,
        "weights": trainer.model.state_dict(),
        "average": trainer.average.module.state_dict(),
    }


def overflow(module, inputs, output):
    """A forward hook: what a layer gives when its numbers become too large."""
    return output * math.inf


def main(folder: Path) -> None:
    """All scenarios; in the last one numbers of the second process are not finite, and the first process dies."""
    with joined("cpu") as world:
        results = {name: steps(folder, world, counts) for name, counts in SCENARIOS.items()}
        results["two passes"] = steps(folder, world, SCENARIOS["plain"], passes=2)
        torch.save(results, folder / f"process_{world.rank}.pt")
        trainer = small_trainer(folder, world)
        trainer.step.learn_all_but(())
        if world.rank == 1:
            trainer.model.encoder.fusion.register_forward_hook(overflow)
        try:
            trainer.step(batches(SCENARIOS["plain"], world, 2), 1e-4)
        except TrainingError as error:
            (folder / "message.txt").write_text(f"process {world.rank}: {error}")
            os.kill(os.getpid(), signal.SIGKILL)  # the second process is not to wait for ever


if __name__ == "__main__":
    main(Path(sys.argv[1]))
