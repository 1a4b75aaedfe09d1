"""Every variant's graph against PyTorch: logits and what is served, at a size that is not square, for one and three.

TensorRT-RTX's compiler takes all of them but those with deformable convolutions.

The variants that are left to `-m slow` differ from others in depth, or join parts that are each tested here, in
`test_onnx.py` (MobileNetV2, the plain decoder) or in `test_switches.py` (softmax).
The compact model in fp16 is held on its own weights in `test_precision.py`: its MobileNetV2 takes rounding worse than
the others, and what that does to masks only trained weights can say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lively import lively

from sparseinst.checkpoint import save_weights
from sparseinst.recipes import get_recipe
from sparseinst_export.graph_options import GraphOptions
from sparseinst_export.onnx import Export, export_onnx
from sparseinst_export.quantize import Settings, quantize
from sparseinst_export.tensorrt_check import check_tensorrt
from sparseinst_runtime import Contract

SIZE = (96, 128)
FP32, FP16 = 1e-4, 5e-3  # largest error of a logit over the largest logit
HERE = ("r50_giam", "r50vd_dcn_giam", "pvt_b1_giam")
SLOW = (
    "compact", "r50_base", "r50_giam_soft", "cspdarknet53_giam", "r50vd_base", "r50_dcn_giam_aug", "r50vd_giam",
    "r101_giam", "r101_dcn_giam", "darknet53_giam", "pvt_b2_li_giam",
)  # fmt: skip
HALF = ("r50_giam", "pvt_b1_giam")


def export(variant: str, folder: Path, precision: str, extras: tuple[str, ...] = ("raw", "activations")) -> Export:
    recipe = get_recipe(variant)
    network = replace(recipe.network, decoder=replace(recipe.network.decoder, classes=7, instances=20))
    contract = Contract(tuple("abcdefg"), tuple(range(1, 8)), input_size=SIZE, max_instances=20, name=variant)
    weights = save_weights(folder / "model.safetensors", lively(network, contract, sharpness=5), contract, half=False)
    return export_onnx(weights, folder / "model.onnx", None, precision, GraphOptions(extras=extras))


@pytest.mark.parametrize("variant", [*HERE, *(pytest.param(variant, marks=pytest.mark.slow) for variant in SLOW)])
def test_a_graph_gives_what_pytorch_gives(variant, tmp_path):
    exported = export(variant, tmp_path, "fp32")
    assert [difference.batch for difference in exported.differences] == [1, 3]
    assert all(difference.holds for difference in exported.differences)
    assert max(difference.logits for difference in exported.differences) <= FP32
    assert check_tensorrt(exported.graph).taken is ("dcn" not in variant)


@pytest.mark.parametrize("variant", HALF)
def test_a_graph_in_fp16_stays_close(variant, tmp_path):
    exported = export(variant, tmp_path, "fp16")
    assert max(difference.logits for difference in exported.differences) <= FP16
    check = check_tensorrt(exported.graph)
    assert check.taken, check.refusals
    assert check.precisions["fp32"] == 1, "the pooling under the activation maps, and nothing else"


def test_tensorrts_compiler_takes_r50_giam_in_int8(scenes, tmp_path):
    """The bundled compact model is in `test_quantize.py`."""
    exported = export("r50_giam", tmp_path, "fp32", extras=())
    settings = Settings(target="tensorrt", calibration_pictures=2, search=False)
    out = tmp_path / "model.int8.onnx"
    quantize(exported.graph, scenes / "instances.json", scenes / "images", out, settings)
    check = check_tensorrt(out)
    assert check.taken, check.refusals
    assert check.precisions["int8"] > 70
