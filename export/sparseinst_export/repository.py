"""Fill the model repository's template with an exported network, ready for Triton.

`model_repository/` in git holds the models without an engine. Here it is copied, the engine and its contract go into
the version folders, and the numbers in the config files that depend on the network are rewritten from the contract.
Needs the runtime only, neither torch nor onnx, so that a machine that serves can do it.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparseinst_runtime.contract import Contract

if TYPE_CHECKING:
    from collections.abc import Iterator

ENSEMBLES = ("sparseinst", "sparseinst_pixels")
NETWORK = "sparseinst_network"
# Each of them gets its own contract.json: a remote model store hands Triton one model folder at a time.
WITH_CONTRACT = ("sparseinst_preprocess", NETWORK, "sparseinst_postprocess")
MODELS = (*ENSEMBLES, *WITH_CONTRACT)

TEMPLATE_VERSION = "1"  # the version folder that the template's code lies in
# numbers of a contract that a config may name
TOKENS = ("input_height", "input_width", "mask_height", "mask_width", "max_instances", "max_batch_size")
MARK = re.compile(r"#\s*contract:(?P<tokens>[^#]*)$")  # `dims: [ 3, 9 ]  # contract: input_height, 9`
LIST = re.compile(r"\[[^\[\]]*\]")
NUMBER = re.compile(r"(?<=:)(?P<space>\s*)\d+")


class RepositoryError(ValueError):
    """A model repository that cannot be assembled; the message says what was got, what was wanted and what to do."""


def find_template() -> Path:
    """The template of the checkout this package runs from.

    Raises:
        RepositoryError: the package is installed without its checkout, so there is no template beside it.
    """
    template = Path(__file__).resolve().parents[2] / "model_repository"
    if not (template / NETWORK).is_dir():
        raise RepositoryError(
            "no model repository template beside this package; "
            "give the folder `model_repository` of a checkout of the project with --template"
        )
    return template


def assemble(
    template: Path, onnx: Path, contract: Path, out: Path, *, version: int = 1, plan: Path | None = None
) -> Path:
    """Write a model repository that Triton can serve: the template, filled with one network.

    The repository is built beside `out` and renamed into its place at the end; an interrupted run leaves the old one.

    Args:
        template: folder with the models of `MODELS`, as in the project's `model_repository/`.
        onnx: the exported graph, which the CPU engine reads; becomes `sparseinst_network/<version>/model.onnx`.
        contract: the contract.json of that graph.
        out: folder to write. Absent, empty, or an earlier repository of ours, which is replaced as a whole.
        version: number of the version folder, from 1.
        plan: TensorRT engine of the same graph; becomes `sparseinst_network/<version>/model.plan`.

    Returns:
        `out`, as an absolute path.

    Raises:
        RepositoryError: a file is missing, a config line cannot be filled, or `out` holds something else.
        ContractError: the contract cannot be read or does not hold together.
    """
    if version < 1:
        raise RepositoryError(f"version is {version}; wanted 1 or more, as Triton counts them")
    template, out = template.resolve(), out.resolve()
    _check_template(template)
    engines = {"model.onnx": onnx} if plan is None else {"model.onnx": onnx, "model.plan": plan}
    for name, path in engines.items():
        if not path.is_file() or path.stat().st_size == 0:
            raise RepositoryError(f"no engine at {path}; wanted the file that becomes {name}, as export writes it")
    loaded = Contract.load(contract)
    _check_target(template, out)

    with _swapped_into(out) as fresh:
        for model in MODELS:
            _copy_model(template / model, fresh / model, str(version))
            for config in (fresh / model).rglob("*.pbtxt"):
                text = fill(config.read_text(encoding="utf-8"), loaded, source=f"{model}/{config.name}")
                if model in ENSEMBLES:
                    text += contract_parameter(loaded)
                config.write_text(text, encoding="utf-8")
        for model in WITH_CONTRACT:
            (fresh / model / str(version) / "contract.json").write_text(loaded.to_json(), encoding="utf-8")
        for name, path in engines.items():
            shutil.copyfile(path, fresh / NETWORK / str(version) / name)
    return out


def fill(text: str, contract: Contract, source: str = "config.pbtxt") -> str:
    """Rewrite the lines of a model configuration that are marked with `# contract: TOKENS`.

    The one bracketed list of such a line, or where there is none its one number, is replaced by the tokens' values.
    A token is an integer, kept as it is, or one of `TOKENS`. The mark stays, so that filling again is possible.

    Args:
        text: a Triton model configuration in protobuf's text format.
        contract: where the values come from.
        source: what the text is called in an error message.

    Raises:
        RepositoryError: an unknown token, or a line with no place, or more than one, for the values.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        mark = MARK.search(line)
        lines.append(_fill_line(line, mark, contract, f"{source}, line {number}") if mark else line)
    return "\n".join(lines) + "\n"


def contract_parameter(contract: Contract) -> str:
    """The contract as a parameter of a model configuration, where a client reads it without a file of the server's.

    `parameters["contract"].string_value` of the model's config is the JSON text that `Contract.from_json` reads.
    """
    compact = json.dumps(json.loads(contract.to_json()), separators=(",", ":"))
    quoted = json.dumps(compact)  # ASCII with \" and \\: these escapes are protobuf's, too
    return f'\nparameters {{ key: "contract" value {{ string_value: {quoted} }} }}  # written by export\n'


def _fill_line(line: str, mark: re.Match[str], contract: Contract, where: str) -> str:
    code = line[: mark.start()]
    values = [_value(token.strip(), contract, where) for token in mark["tokens"].split(",")]
    lists, numbers = LIST.findall(code), NUMBER.findall(code)
    if len(lists) == 1:
        filled = LIST.sub(f"[ {', '.join(values)} ]", code)
    elif not lists and len(numbers) == len(values) == 1:
        filled = NUMBER.sub(rf"\g<space>{values[0]}", code)
    else:
        raise RepositoryError(f"{where}: wanted one list, or one number and one token, before the mark; got {line!r}")
    return filled + line[mark.start() :]


def _value(token: str, contract: Contract, where: str) -> str:
    if token in TOKENS:
        axis = {"height": 0, "width": 1}
        name, _, side = token.rpartition("_")
        return str(getattr(contract, f"{name}_size")[axis[side]] if side in axis else getattr(contract, token))
    if not re.fullmatch(r"-?\d+", token):
        raise RepositoryError(f"{where}: unknown token {token!r}; wanted an integer or one of {', '.join(TOKENS)}")
    return token


def _check_template(template: Path) -> None:
    missing = [model for model in MODELS if not (template / model / "config.pbtxt").is_file()]
    if missing:
        raise RepositoryError(
            f"{template} is not the model repository template: no config.pbtxt for {', '.join(missing)}; "
            "wanted the folder `model_repository` of the project"
        )


def _check_target(template: Path, out: Path) -> None:
    if out == template or template in out.parents or out in template.parents:
        raise RepositoryError(f"{out} and the template {template} lie in one another; write to a folder of its own")
    if not out.exists():
        return
    if not out.is_dir():
        raise RepositoryError(f"{out} is a file; wanted a folder to write the repository to")
    strangers = sorted({entry.name for entry in out.iterdir()} - set(MODELS))
    if strangers:
        raise RepositoryError(
            f"{out} also holds {', '.join(strangers[:5])}, and a repository is replaced as a whole; "
            "write to a folder of its own and give Triton both with two --model-repository options"
        )


def _copy_model(source: Path, target: Path, version: str) -> None:
    # Contents are copied without permissions or links: a server under another user must be able to read them.
    shutil.copytree(
        source,
        target,
        copy_function=shutil.copyfile,
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.onnx", "*.plan", "contract.json"),
    )
    versions = target / TEMPLATE_VERSION
    if versions.is_dir() and version != TEMPLATE_VERSION:
        versions.rename(target / version)
    (target / version).mkdir(exist_ok=True)  # an ensemble's is empty, and git keeps no empty folders


@contextmanager
def _swapped_into(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place on success and is removed on failure."""
    suffix = uuid.uuid4().hex[:8]
    fresh, old = (out.with_name(f".{out.name}.{kind}-{suffix}") for kind in ("new", "old"))
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
