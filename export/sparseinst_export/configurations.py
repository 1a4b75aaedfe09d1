"""Lines of a model configuration (`*.pbtxt`) that follow the network, or the version that is served.

Three kinds, each known by the comment it ends with: numbers marked `# contract: TOKENS`, rewritten from the contract;
the contract itself as a parameter; and the version that a roll-back has fixed. All others are the user's to tune.
"""

from __future__ import annotations

import json
import re

from sparseinst_export.layout import RepositoryError
from sparseinst_runtime.contract import Contract

# numbers of a contract that a config may name
TOKENS = ("input_height", "input_width", "mask_height", "mask_width", "max_instances", "max_batch_size")
MARK = re.compile(r"#\s*contract:(?P<tokens>[^#]*)$")  # `dims: [ 3, 9 ]  # contract: input_height, 9`
LIST = re.compile(r"\[[^\[\]]*\]")
NUMBER = re.compile(r"(?<=:)(?P<space>\s*)\d+")

CONTRACT_LINE = "# written by export: the contract of the version that is served"
PIN_LINE = "# written by --roll-back; --roll-forward takes it away"
PINNED = re.compile(r"versions: \[ (?P<version>\d+) \]")


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


def with_contract(text: str, contract: Contract) -> str:
    """The configuration with this contract as a parameter, where a client reads it without a file of the server's.

    `parameters["contract"].string_value` of the model's config is the JSON text that `Contract.from_json` reads.
    """
    compact = json.dumps(json.loads(contract.to_json()), separators=(",", ":"))
    quoted = json.dumps(compact)  # ASCII with \" and \\: these escapes are protobuf's, too
    return _with_line(text, f'parameters {{ key: "contract" value {{ string_value: {quoted} }} }}', CONTRACT_LINE)


def pinned(text: str, version: int | None) -> str:
    """The configuration with one version to serve, whichever others lie there; None leaves it to Triton: the newest.

    Raises:
        RepositoryError: the configuration has a version policy that is not ours.
    """
    own = re.sub(rf"\n?^.*{re.escape(PIN_LINE)}$\n?", "", text, flags=re.MULTILINE)
    if re.search(r"^\s*version_policy\b", own, re.MULTILINE):
        raise RepositoryError("it has a version_policy of its own; take that out, or change it by hand")
    if version is None:
        return own
    return _with_line(own, f"version_policy {{ specific {{ versions: [ {version} ] }} }}", PIN_LINE)


def pinned_version(text: str) -> int | None:
    """The version that a roll-back has fixed; None where there is none."""
    for line in text.splitlines():
        if line.endswith(PIN_LINE) and (match := PINNED.search(line)):
            return int(match["version"])
    return None


def _with_line(text: str, line: str, comment: str) -> str:
    """The text with one line that ends with the comment: in the place of the one that is there, else at the end."""
    lines, full = text.splitlines(), f"{line}  {comment}"
    places = [i for i, each in enumerate(lines) if each.endswith(comment)]
    if not places:
        return text.rstrip("\n") + f"\n\n{full}\n"
    lines[places[0]] = full
    return "\n".join(lines) + "\n"


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
