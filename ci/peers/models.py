"""The networks that are compared, as weights, graph and model repository under build/; made once and kept.

Random weights serve for speed, if nothing fades: with plain initial values the maps of a deep backbone shrink towards
zero, and a processor is slow at the tiniest numbers. So every layer is scaled until its outputs vary by about 1.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from peers.contenders import Model
from sparseinst.checkpoint import load_model, save_weights
from sparseinst.network import SparseInst
from sparseinst.network.head import normalise
from sparseinst.recipes import get_recipe
from sparseinst_export.onnx import export_onnx
from sparseinst_export.repository import assemble
from sparseinst_export.verify import smooth_pictures
from sparseinst_runtime import Contract

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "assets" / "models" / "animals"
BUILD = ROOT / "build" / "peers"
KERNEL_SPREAD = 0.3  # of mask kernels: logits of the masks vary by about 3, as between object and background


def prepare(name: str, int8: Path | None = None) -> Model:
    """The bundled model by the name `bundled`, or a recipe's network with random weights at 640x640.

    Args:
        name: `bundled`, or a variant of docs/variants.md.
        int8: a quantised graph of the same network, to be compared too; by default model.int8.onnx beside its graph,
            where there is one.

    Raises:
        ValueError: no recipe of that name, or its graph cannot be exported.
    """
    trained = name == "bundled"
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    weights, graph = (
        (BUNDLED if trained else folder) / "model.safetensors",
        (BUNDLED if trained else folder) / "model.onnx",
    )
    if not graph.exists():
        network = get_recipe(name).network
        classes = network.decoder.classes
        contract = Contract(
            classes=tuple(f"class {index}" for index in range(classes)),
            category_ids=tuple(range(1, classes + 1)),
            max_instances=network.decoder.instances,
            name=f"{name}, random weights",
        )
        save_weights(weights, random_network(network, contract), contract)
        export_onnx(weights, graph)
    beside = graph.with_name("model.int8.onnx")
    int8 = int8 or (beside if beside.exists() else None)
    repository = assemble(
        ROOT / "model_repository", graph, graph.with_name("contract.json"), _empty(folder / "repository"), int8=int8
    )
    return Model(name, weights, graph, int8, repository, trained)


def random_network(network: Any, contract: Contract, seed: int = 0) -> SparseInst:
    """Random weights under which every layer's outputs vary by about 1 for smooth pictures, in eval mode."""
    torch.manual_seed(seed)
    model = SparseInst(network).eval()
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):  # timm starts the last norm of a residual branch at 0: no branch
            module.weight.fill_(1)
    hooks = [
        module.register_forward_hook(_scale)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.endswith(("objectness",))
    ]
    small = replace(contract, input_size=(320, 320))
    with torch.inference_mode():
        model(normalise(torch.from_numpy(smooth_pictures(2, small.input_size)), small))
        model.decoder.inst_branch.mask_kernel.weight.mul_(KERNEL_SPREAD)
    for hook in hooks:
        hook.remove()
    return model


def load(model: Model) -> SparseInst:
    """The network itself, in eval mode."""
    return load_model(model.weights)[0].eval()


def _scale(module: nn.Conv2d | nn.Linear, _: Any, output: torch.Tensor) -> torch.Tensor:
    # One value a layer (not a channel) keeps the channels as different as they came out.
    bias: torch.Tensor | float = 0.0
    if module.bias is not None:
        bias = module.bias.view(-1, 1, 1) if isinstance(module, nn.Conv2d) else module.bias
    spread = (output - bias).std().clamp(min=1e-6)
    module.weight.div_(spread)
    return (output - bias) / spread + bias


def _empty(folder: Path) -> Path:
    # `assemble` replaces no folder; what lies here was made by an earlier run.
    shutil.rmtree(folder, ignore_errors=True)
    return folder
