"""Which of Triton's doors stand open, and to whom: its restricted APIs, and TLS of its gRPC side, as its own flags.

Shut to everybody without the key, unless opened on purpose: what changes the server or the machine below it. Health,
metadata, model configuration, statistics and inference are for everybody who reaches the port.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Api = Literal["model-repository", "shared-memory", "trace", "logging"]
SHUT: tuple[Api, ...] = get_args(Api)
HEADER = "sparseinst-admin-key"
GRPC_PREFIX = "triton-grpc-protocol-"  # Triton puts it before the header's name, over gRPC alone


@dataclass(frozen=True)
class Tls:
    """PEM files for Triton's gRPC side; Triton speaks no TLS over HTTP.

    Attributes:
        certificate: the server's, with its chain.
        key: the server's private key, without a pass phrase.
        clients: certificates of the authorities whose clients are let in, and nobody else; None lets everybody in.
    """

    certificate: Path
    key: Path
    clients: Path | None = None

    def __post_init__(self) -> None:
        """Refuse files that are not there: Triton would start and take no connection."""
        for path in (self.certificate, self.key, self.clients):
            if path is not None and not path.is_file():
                raise ValueError(f"no PEM file at {path}; deploy/tls/make_certificates.sh makes a set to try with")


@dataclass(frozen=True)
class Doors:
    """Who may do what.

    Attributes:
        open: of `SHUT`, what everybody may use who reaches a port.
        key: value of the header `sparseinst-admin-key` that opens the others; at first one that nobody else knows. It
            is part of Triton's command line, which other users of this machine may read.
        tls: of the gRPC side; None leaves it without.

    Raises:
        ValueError: an API that Triton does not have or that is never shut, or a key that no header can carry.
    """

    open: tuple[Api, ...] = ()
    key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        """Refuse what Triton would take and not do."""
        if unknown := sorted(set(self.open) - set(SHUT)):
            raise ValueError(f"open names {', '.join(unknown)}; wanted of {', '.join(SHUT)}")
        if not (self.key.isascii() and self.key.isalnum() and len(self.key) >= 16):
            raise ValueError(
                "the admin key is no key; wanted 16 or more letters and digits, as of `openssl rand -hex 32`"
            )

    @property
    def http_headers(self) -> dict[str, str]:
        """What opens every door over HTTP."""
        return {HEADER: self.key}

    @property
    def grpc_metadata(self) -> dict[str, str]:
        """The same over gRPC."""
        return {GRPC_PREFIX + HEADER: self.key}

    def flags(self) -> list[str]:
        """Triton's command-line options."""
        flags = []
        if shut := [api for api in SHUT if api not in self.open]:
            rule = f"{','.join(shut)}:{HEADER}={self.key}"
            flags += [f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}"]
        if self.tls is not None:
            flags += [f"--grpc-server-cert={self.tls.certificate}", f"--grpc-server-key={self.tls.key}"]
            if self.tls.clients is None:
                flags.append("--grpc-use-ssl=true")
            else:
                flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.tls.clients}"]
        return flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command line that `from_options` reads."""
    doors = parser.add_argument_group("doors")
    doors.add_argument(
        "--open",
        nargs="+",
        choices=SHUT,
        default=[],
        metavar="API",
        help=f"let everybody use {', '.join(SHUT)}; otherwise they take the admin key (default: none)",
    )
    doors.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="F",
        help=f"file with the value of the header {HEADER} that opens them (default: one that nobody knows)",
    )
    doors.add_argument("--tls-certificate", type=Path, metavar="PEM", help="gRPC by TLS; HTTP then stays on 127.0.0.1")
    doors.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    doors.add_argument(
        "--tls-clients", type=Path, metavar="PEM", help="authorities: clients need a certificate of theirs"
    )


def from_options(options: argparse.Namespace) -> Doors:
    """The doors that a command line asks for; raises ValueError or OSError with a sentence."""
    opened: Sequence[Api] = options.open
    tls = None
    if options.tls_certificate or options.tls_key or options.tls_clients:
        if not (options.tls_certificate and options.tls_key):
            raise ValueError("TLS wants --tls-certificate and --tls-key; --tls-clients alone protects nothing")
        tls = Tls(options.tls_certificate, options.tls_key, options.tls_clients)
    if options.admin_key_file is None:
        return Doors(tuple(opened), tls=tls)
    return Doors(tuple(opened), options.admin_key_file.read_text(encoding="utf-8").strip(), tls)
