"""A comparison: contenders take turns on the same pictures, round after round, in an order that moves on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from pycocotools import mask as coco_mask

from peers.contenders import Answer, Contender, NotHereError, Setting
from peers.models import BUILD, ROOT
from peers.worker import Turn, Worker, processor_time
from sparseinst_server import TritonServer

T = TypeVar("T")
COMPARED = 4  # pictures whose masks are held against the reference's


@dataclass
class Result:
    """What came out for one model.

    Attributes:
        turns: of each contender, one for each round that counts.
        skipped: contenders that could not take part, and why.
        answers: to the first pictures, of the contenders that run the model's own weights.
    """

    turns: dict[str, list[Turn]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def agreement(self, reference: str, score_threshold: float) -> dict[str, float]:
        """Mean IoU of the reference's masks with the nearest mask of each contender that runs the same weights.

        Masks above the threshold count, as are served; the surest of a picture where none is above.
        """
        sure = [surest(answer, score_threshold) for answer in self.answers[reference]]
        return {name: mean_iou(zip(sure, own, strict=True)) for name, own in self.answers.items()}


def compare(
    contenders: Sequence[Contender],
    setting: Setting,
    pictures: tuple[bytes, ...],
    *,
    rounds: int,
    warm_up: int,
    turn: int,
    tick: Callable[[], None],
) -> Result:
    """Run the comparison.

    Args:
        contenders: who takes part.
        setting: what they share.
        pictures: encoded; every contender gets the same ones in the same round.
        rounds: that count.
        warm_up: rounds before them.
        turn: pictures of one turn; a contender with several requests at a time gets that many times more.
        tick: called after each turn.
    """
    result = Result()
    with ExitStack() as stack:
        servers = _start_servers({c.preset for c in contenders if c.preset}, setting, stack)
        workers = []
        for contender in contenders:
            url = servers[contender.preset].grpc_url if contender.preset else ""
            try:
                worker = Worker(contender, replace(setting, url=url), pictures)
            except NotHereError as error:
                result.skipped[contender.name] = str(error)
                continue
            stack.callback(worker.close)
            workers.append(worker)
        for index in range(warm_up + rounds):
            for worker in order(workers, index):
                count = turn * worker.contender.concurrency
                numbers = [(index * turn + place) % len(pictures) for place in range(count)]
                done = _take_turn(worker, numbers, servers)
                if index >= warm_up:
                    result.turns.setdefault(worker.contender.name, []).append(done)
                tick()
        for worker in workers:
            if worker.contender.same_weights:
                result.answers[worker.contender.name] = worker.answers(list(range(min(COMPARED, len(pictures)))))
    result.turns = {c.name: result.turns[c.name] for c in contenders if c.name in result.turns}
    return result


def order(taking_part: Sequence[T], index: int) -> list[T]:
    """Who takes a turn after whom in a round: another one begins each time, and every second round goes backwards."""
    start = index % len(taking_part)
    moved = [*taking_part[start:], *taking_part[:start]]
    return moved[::-1] if index % 2 else moved


def surest(answer: Answer, score_threshold: float) -> Answer:
    """The masks above a threshold, or the best one alone where none is."""
    kept = max(1, int((answer.scores > score_threshold).sum()))
    return Answer(answer.size, answer.masks[:kept], answer.scores[:kept])


def mean_iou(pairs: Iterable[tuple[Answer, Answer]]) -> float:
    """Mean over the expected masks of their largest IoU with a found one; 0 where nothing was found.

    Args:
        pairs: what was expected in a picture, and what was found there.
    """
    largest: list[float] = []
    for expected, found in pairs:
        theirs, ours = ([{"size": a.size, "counts": counts} for counts in a.masks] for a in (expected, found))
        if theirs and ours:
            largest += coco_mask.iou(theirs, ours, [0] * len(ours)).max(axis=1).tolist()
        else:
            largest += [0.0] * len(theirs)
    return fmean(largest) if largest else 0.0


def _start_servers(presets: set[str], setting: Setting, stack: ExitStack) -> dict[str, TritonServer]:
    return {
        preset: stack.enter_context(
            TritonServer(
                setting.model.repository,
                config_name=preset,
                log=BUILD / f"triton.{setting.model.name}.{preset}.log",
                python=_serving_python(),
            )
        )
        for preset in sorted(presets)
    }


def _serving_python() -> Path:
    return ROOT / ".venv-serve" / "bin" / "python"


def _take_turn(worker: Worker, numbers: list[int], servers: dict[str, TritonServer]) -> Turn:
    if worker.contender.preset is None:
        return worker.turn(numbers)
    guard = servers[worker.contender.preset].pid
    before = processor_time(guard)
    done = worker.turn(numbers)
    return replace(done, processor=done.processor + processor_time(guard) - before)
