"""`sparseinst-export repository`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sparseinst_export.commands import say
from sparseinst_export.layout import MODELS, RepositoryError, find_template, holds_repository
from sparseinst_export.presets import PRESETS, engine_files, preset_problem, read_plans
from sparseinst_runtime.contract import Contract

DESCRIPTION = """\
Fill the project's model repository with an exported network, or add one to a repository as its next version.

  sparseinst-export repository --onnx M.onnx --out DIR     write DIR, or add a version where it is a repository already
  sparseinst-export repository --check DIR                 is everything in DIR as it was assembled?
  sparseinst-export repository --roll-back DIR             serve the version before; --roll-forward: the newest again

Engines and the presets (Triton's --model-config-name) that serve them:
  --onnx   model.onnx        cpu, cpu-throughput (OpenVINO), onnxruntime (Triton's own backend; not run by our tests)
  --int8   model.int8.onnx   cpu-int8, cpu-int8-throughput (OpenVINO)
  --plan   model.plan        tensorrt, also without a name (not verified on a GPU)

A plan runs on the GPU and the TensorRT version it was built with: build it inside the image that serves it. For
several kinds of GPU give one for each compute capability: --plan 8.9=ada.plan --plan 9.0=hopper.plan.
  trtexec --onnx=model.onnx --saveEngine=model.plan --minShapes=image:1xHxWx3 \\
          --optShapes=image:4xHxWx3 --maxShapes=image:8xHxWx3       (H, W: input_size of contract.json)
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    repository = commands.add_parser(
        "repository",
        help="an ONNX graph to a model repository that Triton serves; its versions",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = repository.add_mutually_exclusive_group(required=True)
    what.add_argument("--onnx", type=Path, metavar="M.onnx", help="the exported graph, to assemble or to add")
    what.add_argument(
        "--check", type=Path, metavar="DIR", help="look a repository through; exit code 1 with the reasons"
    )
    what.add_argument("--roll-back", type=Path, metavar="DIR", help="serve the version before the one that is served")
    what.add_argument("--roll-forward", type=Path, metavar="DIR", help="serve the newest version again")
    repository.add_argument("--out", type=Path, metavar="DIR", help="the model repository to write, with --onnx")
    repository.add_argument("--contract", type=Path, metavar="C", help="the graph's (contract.json beside it)")
    repository.add_argument("--int8", type=Path, metavar="Q.onnx", help="the same graph, quantised for CPUs")
    repository.add_argument(
        "--plan",
        type=plan,
        action="append",
        default=[],
        metavar="[CC=]P",
        help="TensorRT engine of the same graph; with a compute capability, 8.9=P, for such GPUs only",
    )
    repository.add_argument(
        "--plans", type=Path, metavar="JSON", help='the same from a file: {"8.9": "model.8.9.plan"}'
    )
    repository.add_argument("--template", type=Path, metavar="DIR", help="model_repository/ (that of the checkout)")
    repository.add_argument("--version", type=int, metavar="V", help="number of the version (1, or the next)")
    repository.add_argument(
        "--replace", action="store_true", help="write --out anew: no version and no change of a config survives"
    )
    repository.add_argument("--preset", help="with --check: it must have its engine, too")
    repository.set_defaults(run=run)


def plan(text: str) -> tuple[str, Path]:
    """A type for argparse: `8.9=ada.plan`, or a path, for which the compute capability is empty."""
    capability, _, path = text.rpartition("=")
    return capability, Path(path)


def run(options: argparse.Namespace) -> int:
    """Do the one thing that was asked for, and say what is there now."""
    from sparseinst_export.versions import roll_back, roll_forward

    if options.check:
        return check(options)
    if options.roll_back or options.roll_forward:
        repository = options.roll_back or options.roll_forward
        version = roll_back(repository) if options.roll_back else roll_forward(repository)
        say(f"{repository}: version {version} is served; a Triton that polls or is told to load takes it up")
        return 0
    return write(options)


def check(options: argparse.Namespace) -> int:
    """Say which versions and presets are there; 1 with a sentence for each thing that is wrong."""
    from sparseinst_export.layout import complete_versions
    from sparseinst_export.repository_check import repository_problems
    from sparseinst_export.versions import served_version

    problems = repository_problems(options.check, options.preset)
    served = served_version(options.check)
    versions = ", ".join(map(str, complete_versions(options.check)))
    ready = [name for name in PRESETS if preset_problem(options.check, name, served) is None]
    say(f"{options.check}: versions {versions}; {served} is served; engines for the presets {', '.join(ready)}")
    for problem in problems:
        sys.stderr.write(f"sparseinst-export: {problem}\n")
    if not problems:
        say("  everything is as it was assembled")
    return 1 if problems else 0


def write(options: argparse.Namespace) -> int:
    """Assemble a new repository or add a version."""
    from sparseinst_export.repository import assemble
    from sparseinst_export.versions import add_version

    if options.out is None:
        raise RepositoryError("--onnx without --out; wanted the folder of the model repository to write or to add to")
    contract = options.contract or options.onnx.with_name("contract.json")
    template = options.template or find_template()
    plans = (read_plans(options.plans) if options.plans else {}) | dict(options.plan)
    engines = {"int8": options.int8, "plan": plans.pop("", None), "plans": plans}
    if options.replace or not holds_repository(options.out):
        version = 1 if options.version is None else options.version
        added = True
        assemble(template, options.onnx, contract, options.out, version=version, **engines)
    else:
        files = engine_files(options.onnx, **engines)
        version, added = add_version(template, Contract.load(contract), files, options.out, options.version)

    loaded = Contract.load(contract)
    if not added:
        say(f"{options.out}: nothing to do, version {version} holds these very files already")
        return 0
    ready = [name for name in PRESETS if preset_problem(options.out, name, version) is None]
    say(f"{options.out}: {len(MODELS)} models, version {version}, with engines for the presets {', '.join(ready)}")
    sizes = f"{loaded.input_size[0]}x{loaded.input_size[1]} px, up to {loaded.max_instances} instances"
    say(f"  {loaded.name}: {len(loaded.classes)} classes, {sizes}")
    return 0
