"""What several commands ask for, said once: the server and how to be let in, checked values, where answers go."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sparseinst_client.address import Address
from sparseinst_client.client import Client
from sparseinst_client.core import CONCURRENCY
from sparseinst_client.retry import RETRIES

DEFAULT_URL = "grpc://127.0.0.1:8001"
SERVER = f"""\
The server is --url, else the environment variable SPARSEINST_URL, else {DEFAULT_URL}.
grpc://host:port and http://host:port are understood, with TLS grpcs:// and https://; Triton listens on 8001 and 8000.
"""
SOME_REFUSED = 3  # exit status


def add_command(commands: Any, name: str, text: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command that asks a server; `text` is its line in the list of commands.

    Args:
        commands: argparse's subparsers, whose type is private.
        name: of the command.
        text: its line in the list of commands.
        description: what it does.
        examples: command lines, each with an indented line that says what comes of it.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=description,
        epilog=f"examples:\n{examples}\n{SERVER}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    server = parser.add_argument_group("the server")
    url = os.environ.get("SPARSEINST_URL") or DEFAULT_URL
    server.add_argument("--url", default=url, help="grpc://host:port or http://host:port (now: %(default)s)")
    server.add_argument("--timeout", type=positive, default=30.0, metavar="SECONDS", help="for a whole call (30)")
    server.add_argument("--model", default="sparseinst", help="the model to ask (%(default)s)")
    server.add_argument(
        "--retries",
        type=_retries,
        default=RETRIES,
        metavar="N",
        help="ask again so often, where the server is away or overloaded, within the timeout (%(default)s)",
    )
    server.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'", help="with every request"
    )
    server.add_argument("--ca", type=Path, metavar="PEM", help="TLS: authorities to trust, instead of the usual ones")
    server.add_argument("--certificate", type=Path, metavar="PEM", help="TLS: certificate to show to the server")
    server.add_argument("--key", type=Path, metavar="PEM", help="TLS: its private key")
    parser.set_defaults(usage_error=parser.error)
    return parser


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which instances are wanted."""
    parser.add_argument("--score-threshold", type=fraction, metavar="T", help="drop scores at or below T, 0 to 1")
    parser.add_argument("--max-instances", type=count, metavar="N", help="only the N best of a picture")


def add_in_flight(parser: argparse.ArgumentParser) -> None:
    """How many pictures travel at a time."""
    parser.add_argument(
        "--in-flight", type=count, default=8, metavar="N", help="pictures under way at a time (%(default)s)"
    )


def connect(options: argparse.Namespace) -> Client:
    """The client that the options of `add_command` describe; a wrong address or certificate is wrong usage."""
    try:
        return Client(
            options.url,
            timeout=options.timeout,
            model=options.model,
            retries=options.retries,
            concurrency=max(CONCURRENCY, getattr(options, "in_flight", 1)),
            headers=dict(options.header),
            ca=options.ca,
            certificate=options.certificate,
            key=options.key,
        )
    except ValueError as error:
        options.usage_error(str(error))
        raise  # never reached: usage_error ends the program


def address(options: argparse.Namespace) -> Address:
    """Where the server is, for what `Client` does not do; checked by `connect`."""
    return Address(options.url, dict(options.header), options.ca, options.certificate, options.key)


def console(*, stderr: bool = False) -> Console:
    """Where answers go, wide when it is not a terminal: a pipe should not fold paths."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else 120, highlight=False, stderr=stderr)


def say(line: str) -> None:
    """Write a line of a command's answer to stdout."""
    sys.stdout.write(line + "\n")


def complain(line: str) -> None:
    """Write a sentence to stderr, about what went wrong."""
    sys.stderr.write(f"sparseinst-client: {line}\n")


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number, more than 0")
    return value


def fraction(text: str) -> float:
    """A number in 0..1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a number from 0 to 1")
    return value


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted at least 1")
    return value


def path_with(endings: Sequence[str], text: str) -> Path:
    """A path with one of some endings, for argparse."""
    path = Path(text)
    if path.suffix.lower() not in endings:
        raise argparse.ArgumentTypeError(f"{text}: wanted a file name that ends in one of {', '.join(endings)}")
    return path


def check_outputs(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the work that they are for; None is no file.

    Raises:
        OSError: a folder that is not there or is closed to this user, or a folder of the file's name.
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder; name a file in it", str(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "cannot be written, its folder is not there; make it", str(path))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "cannot be written, its folder is closed to you", str(path))


def _retries(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: wanted a whole number, 0 for never")
    return value


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("no colon in it; wanted 'NAME: VALUE'")  # without the text: it may be secret
    return name.strip(), value.strip()
