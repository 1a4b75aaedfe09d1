"""Which groups of layers stay float: the ones that cost most, until what is lost is little enough.

Every candidate graph is measured on the same pictures: mask AP against their annotations, and agreement, which is mask
AP against what the float graph finds in them. Agreement moves less by chance than AP does, which a hundred pictures
tell to a hundredth at best: it says which group to give back first, and both say when to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sparseinst.evaluate import Engine, evaluate
from sparseinst_export.verify import ExportError
from sparseinst_runtime.coco import ground_truth, mask_ap

if TYPE_CHECKING:
    from pathlib import Path

    from sparseinst.data import CocoInstances
    from sparseinst_runtime.contract import Contract


@dataclass(frozen=True)
class Measure:
    """What a graph reaches on the search pictures.

    Attributes:
        ap: mask AP in 0..1; None where the pictures have no annotations.
        agreement: mask AP in 0..1 against the float graph's instances above the contract's score threshold.
    """

    ap: float | None
    agreement: float

    def suffices(self, reference: Measure, max_drop: float, min_agreement: float) -> bool:
        """Whether this is near enough to the float graph."""
        if self.agreement < min_agreement:
            return False
        return self.ap is None or reference.ap is None or reference.ap - self.ap <= max_drop


class Judge:
    """Measures engines on a choice of pictures; the first one counts as the float graph.

    Args:
        dataset: of the pictures.
        annotations: its COCO instances JSON.
        chosen: indices into it.
        contract: of the engines.
        reference: the float graph.

    Raises:
        ExportError: the float graph finds nothing in these pictures.
    """

    def __init__(
        self, dataset: CocoInstances, annotations: Path, chosen: list[int], contract: Contract, reference: Engine
    ) -> None:
        self.dataset, self.chosen, self.contract = dataset, chosen, contract
        self.image_ids = [dataset.image_ids[index] for index in chosen]
        self.truth = ground_truth(str(annotations), contract)
        wanted = set(self.image_ids)
        self.annotated = any(row["image_id"] in wanted for row in self.truth["annotations"])
        summary, results = self._evaluate(reference)
        found = [row for row in results if row["score"] > contract.score_threshold]
        if not found:
            raise ExportError(
                f"the float graph finds nothing above {contract.score_threshold} in {len(chosen)} pictures; wanted "
                "pictures of what it knows, or --no-search"
            )
        keys = ("image_id", "category_id", "bbox", "segmentation")
        self.found = {**self.truth, "annotations": [{key: row[key] for key in keys} for row in found]}
        self.reference = Measure(summary if self.annotated else None, self._agreement(results))

    def __call__(self, engine: Engine) -> Measure:
        """Measure an engine."""
        ap, results = self._evaluate(engine)
        return Measure(ap if self.annotated else None, self._agreement(results))

    def _evaluate(self, engine: Engine) -> tuple[float, list[dict[str, Any]]]:
        pictures = ((self.dataset.image_ids[index], self.dataset.image(index)) for index in self.chosen)
        summary, results = evaluate(engine, self.contract, self.truth, pictures)
        return summary.ap, results

    def _agreement(self, results: list[dict[str, Any]]) -> float:
        return mask_ap(self.found, results, self.image_ids).ap


@dataclass(frozen=True)
class Search:
    """What came out.

    Attributes:
        reference: the float graph.
        everything: with every group quantised that was not asked to stay float.
        alone: each group quantised alone.
        kept: the groups that stay float, first those that were asked for, then in the order they were given back.
        result: with the others quantised.
    """

    reference: Measure
    everything: Measure
    alone: dict[str, Measure]
    kept: tuple[str, ...]
    result: Measure


def search(
    groups: tuple[str, ...],
    reference: Measure,
    measure: Callable[[frozenset[str]], Measure],
    *,
    keep_float: tuple[str, ...] = (),
    max_drop: float,
    min_agreement: float,
) -> Search:
    """Give groups back to float, the costliest first, until the result is near enough to the float graph.

    Args:
        groups: all of the graph.
        reference: of the float graph.
        measure: measures the graph with these groups quantised.
        keep_float: groups that are not quantised whatever they cost.
        max_drop: largest loss of AP, where there are annotations.
        min_agreement: least agreement.
    """
    open_groups = [group for group in groups if group not in keep_float]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("measuring groups", total=1 + len(open_groups))

        def step(quantised: list[str]) -> Measure:
            found = measure(frozenset(quantised))
            progress.advance(task)
            return found

        everything = step(open_groups)
        alone = {group: step([group]) for group in open_groups}
        costly = sorted(open_groups, key=lambda group: (alone[group].agreement, groups.index(group)))
        kept, result = list(keep_float), everything
        while costly and not result.suffices(reference, max_drop, min_agreement):
            kept.append(costly.pop(0))
            progress.update(task, description=f"without {kept[-1]}", total=progress.tasks[0].completed + 1)
            result = step([group for group in open_groups if group not in kept])
    return Search(reference, everything, alone, tuple(kept), result)


def remembered(
    measure: Callable[[frozenset[str]], Measure],
    known: Mapping[str, Mapping[str, Any]],
    save: Callable[[dict[str, dict[str, Any]]], None],
) -> Callable[[frozenset[str]], Measure]:
    """The same measuring, which asks nothing twice and saves what is known after each measure.

    Args:
        measure: what takes long.
        known: what was measured before, as handed to `save`.
        save: takes everything that is known, ready for JSON, by the names of the quantised groups.
    """
    rows = {name: dict(row) for name, row in known.items()}

    def ask(quantised: frozenset[str]) -> Measure:
        name = " ".join(sorted(quantised))
        if name not in rows:
            rows[name] = asdict(measure(quantised))
            save(rows)
        return Measure(**rows[name])

    return ask
