"""The same pictures through PyTorch and through every engine that serves them, and what of it is out of tolerance.

One picture is in memory at a time; of its masks only run lengths stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.progress import track

from sparseinst_export.agreement import Answer, InstanceAgreement, Pair, TensorAgreement, answer
from sparseinst_export.verify import SCORE_TOLERANCE
from sparseinst_runtime.coco import mask_ap
from sparseinst_runtime.decode import decode_letterboxed

if TYPE_CHECKING:
    from sparseinst.data import CocoInstances
    from sparseinst.evaluate import Engine
    from sparseinst_runtime.contract import Contract

REFERENCE = "PyTorch"
SERVED = "served"


@dataclass(frozen=True)
class Tolerances:
    """What counts as agreement; each figure is compared with the unrounded value.

    Attributes:
        ap: largest absolute difference of the mask AP.
        labels: least share of instances with the same label.
        iou: least median mask IoU.
        score: largest `score_error` of `verify.Difference`.
        mask_share: largest share of mask values that differ by more than one step of 1/255.
    """

    ap: float = 0.002
    labels: float = 0.995
    iou: float = 0.99
    score: float = SCORE_TOLERANCE
    mask_share: float = 1e-4


# The shipped network on 107 photographs: float32 differs by the order of its sums, 2e-5 in score error, 0 in mask
# share; fp16 by 2.1e-2 and 8e-3. What multiplies in TF32, as TensorRT does, has a mantissa as short as fp16's.
# In int8 (ONNX Runtime and OpenVINO, with the search's default) 0.11 and 3e-2, 97.5% and 98.8% of the labels, a median
# IoU of 0.985, and 0.003 AP at most.
PRECISIONS = {
    "fp32": Tolerances(),
    "fp16": Tolerances(score=5e-2, mask_share=2e-2),
    "int8": Tolerances(ap=5e-3, labels=0.95, iou=0.95, score=0.25, mask_share=0.1),
    "fp8": Tolerances(ap=5e-3, labels=0.95, iou=0.95, score=0.25, mask_share=0.1),
}


@dataclass(frozen=True)
class Comparison:
    """An engine against another one.

    Attributes:
        engine: the one that is judged.
        against: the one that counts as right.
        tensors: how far raw outputs lie apart; None where there are none, as from a server.
        instances: how far instances do.
        ap: the engine's mask AP, in 0..1.
        ap_difference: its AP minus that of `against`.
        tolerances: what it was judged by.
    """

    engine: str
    against: str
    tensors: TensorAgreement | None
    instances: InstanceAgreement
    ap: float
    ap_difference: float
    tolerances: Tolerances

    def __str__(self) -> str:
        figures = self.instances.figures()
        count, labels, iou = (figures[name] for name in ("instances", "label_agreement", "iou_median"))
        agreement = "no instance" if labels is None else f"{labels:.2%} of {count} instances with the same label"
        overlap = "" if iou is None else f", median mask IoU {iou:.4f}"
        ap = f"mask AP {self.ap:.4f} ({self.ap_difference:+.4f})"
        return f"{self.engine} against {self.against}: {ap}, {agreement}{overlap}"

    @property
    def failures(self) -> list[str]:
        """A sentence for each figure that is out of tolerance; what is not a number always is."""
        allowed, who = self.tolerances, f"{self.engine} against {self.against}"
        found: list[tuple[bool, str]] = []
        if self.tensors is not None:
            tensors = self.tensors.figures()
            found += [
                (
                    tensors["score_error"] <= allowed.score,
                    f"scores differ by up to {tensors['score_error']:.2e} beyond what pixels at the mask threshold "
                    f"move; wanted at most {allowed.score:.2e}",
                ),
                (
                    tensors["mask_share"] <= allowed.mask_share,
                    f"{tensors['mask_share']:.2e} of the mask values differ by more than 1/255; "
                    f"wanted at most {allowed.mask_share:.2e}",
                ),
            ]
        figures = self.instances.figures()
        labels, iou = figures["label_agreement"], figures["iou_median"]
        if labels is None or iou is None:
            found.append(
                (False, "no instance is above the score threshold on either side; wanted something to compare")
            )
        else:
            found.append(
                (labels >= allowed.labels, f"label agreement is {labels:.4f}; wanted at least {allowed.labels}")
            )
            found.append((iou >= allowed.iou, f"median mask IoU is {iou:.4f}; wanted at least {allowed.iou}"))
        difference = f"mask AP differs by {self.ap_difference:+.4f}; wanted at most {allowed.ap} either way"
        found.append((abs(self.ap_difference) <= allowed.ap, difference))
        return [f"{who}: {sentence}" for holds, sentence in found if not holds]

    def figures(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "engine": self.engine,
            "against": self.against,
            "tensors": self.tensors.figures() if self.tensors else None,
            "instances": self.instances.figures(),
            "ap": self.ap,
            "ap_difference": self.ap_difference,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Verification:
    """What came out.

    Attributes:
        pictures: number of pictures that every engine saw.
        ap: mask AP of PyTorch, in 0..1, -1 where the pictures show nothing to find.
        comparisons: each engine against PyTorch, and what was served against the engine of its kind.
        broken: what went wrong with an engine that did not get through the pictures, by engine.
    """

    pictures: int
    ap: float
    comparisons: tuple[Comparison, ...]
    broken: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """A sentence for everything that is out of tolerance."""
        stopped = [f"{engine}: {problem}" for engine, problem in self.broken.items()]
        if not self.comparisons:
            stopped.append("no engine was compared with PyTorch; wanted one that runs here, or served results")
        return stopped + [sentence for comparison in self.comparisons for sentence in comparison.failures]

    @property
    def worst(self) -> tuple[Comparison, Pair] | None:
        """The comparison and the pair of instances that differ most; None when nothing was found by anybody."""
        pairs = [(each, each.instances.worst) for each in self.comparisons if each.instances.worst is not None]
        return max(pairs, key=lambda found: found[1].badness, default=None)


def verify_engines(
    reference: Engine,
    engines: dict[str, Engine],
    contract: Contract,
    dataset: CocoInstances,
    truth: dict[str, Any],
    *,
    tolerances: dict[str, Tolerances],
    served: dict[int, Answer] | None = None,
    served_kind: str | None = None,
    limit: int | None = None,
) -> Verification:
    """Run pictures through all engines, one by one, with a progress bar on the terminal.

    Args:
        reference: the network in PyTorch.
        engines: the others, by name; one that raises is left out from there on and named in `broken`.
        contract: of all of them.
        dataset: the pictures.
        truth: their annotations, as `sparseinst_runtime.coco.ground_truth` gives them.
        tolerances: for each engine, and for "served".
        served: what a server answered, see `agreement.served_answers`.
        served_kind: name of the engine in `engines` that the server runs; None holds it against PyTorch alone.
        limit: only that many pictures, the first ones; None takes all.

    Raises:
        DataError: a picture cannot be read.
        ValueError: PyTorch's own outputs are not finite.
    """
    image_ids = dataset.image_ids[:limit]
    running, broken = dict(engines), dict[str, str]()
    tensors = {name: TensorAgreement() for name in engines}
    against = [(name, REFERENCE) for name in engines]
    if served is not None:
        against += [(SERVED, REFERENCE), *([(SERVED, served_kind)] if served_kind in engines else [])]
    instances = {pair: InstanceAgreement() for pair in against}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in (REFERENCE, *engines, SERVED)}

    for index, image_id in enumerate(track(image_ids, "verifying")):
        pixels, box = decode_letterboxed(dataset.file(index), contract.input_size, contract.pad_colour)
        image = pixels[None]
        expected = reference(image)
        answers = {REFERENCE: answer(expected, box, contract)}
        for name, engine in list(running.items()):
            try:
                outputs = engine(image)
                tensors[name].add(expected, outputs, contract.mask_threshold)
                answers[name] = answer(outputs, box, contract)
            except Exception as error:  # every library has its own; whatever it is, it belongs into the report
                broken[name] = f"stopped at picture {image_id}: {_sentence(error)}"
                del running[name]
        if served is not None:
            answers[SERVED] = served[image_id]
        for name, found in answers.items():
            results[name] += found.instances.to_coco(image_id, contract.category_ids)
        for pair, agreement in instances.items():
            if pair[0] in answers and pair[1] in answers:
                agreement.add(image_id, answers[pair[1]], answers[pair[0]], contract.score_threshold)

    whole = [pair for pair in against if not broken.keys() & set(pair)]
    names = {REFERENCE, *(name for name, _ in whole)}
    ap = {name: mask_ap(truth, results[name], image_ids).ap for name in names}
    comparisons = [
        Comparison(name, other, tensors.get(name), instances[name, other], ap[name], ap[name] - ap[other], allowed)
        for name, other in whole
        for allowed in [tolerances[name]]
    ]
    return Verification(len(image_ids), ap[REFERENCE], tuple(comparisons), broken)


def with_options(base: Tolerances, **given: float | None) -> Tolerances:
    """Tolerances with those replaced that are not None."""
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
