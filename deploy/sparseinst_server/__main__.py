"""Serve a model repository from the command line until SIGINT or SIGTERM.

    python -m sparseinst_server --repository build/model_repository --http-port 8000

A supervisor repairs a Triton that no longer answers, and writes to standard error what it found and did.

Exit status: 0 from --check; 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP; 1 when Triton is missing something,
does not start or cannot be kept running, with the reason on standard error; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparseinst_server import doors
from sparseinst_server.leave import leave_by_signals
from sparseinst_server.locate import InstallationError, locate
from sparseinst_server.server import CONTROL, ServerError, TritonServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the installation or serve; gives the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.doors = doors.from_options(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        if options.check:
            _check()
        else:
            _serve(options)
    except (InstallationError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _check() -> None:
    found = locate()
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    sys.stdout.write(
        f"Triton can run: {found.tritonserver}\nPython {found.version[0]}.{found.version[1]}: {packages}\n"
    )


def _serve(options: argparse.Namespace) -> None:
    leave_by_signals()
    with TritonServer(
        options.repository,
        config_name=options.config_name,
        control=options.control,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        host=options.host,
        doors=options.doors,
        log=options.log,
        options=tuple(options.triton),
        timeout=options.timeout,
    ) as server:
        sys.stdout.write(
            f"serving {server.repository}\n"
            f"  HTTP     {server.http_url}\n"
            f"  gRPC     {server.grpc_url}\n"
            f"  metrics  {server.metrics_url}\n"
            f"  log      {server.log}\n"
            "stop with Ctrl-C\n"
        )
        sys.stdout.flush()
        if options.supervise:
            _supervise(server)
        server.wait()


def _supervise(server: TritonServer) -> NoReturn:
    # Imported here, so that `--check` runs, and can say so, where a package is missing.
    from sparseinst_server.supervisor import Supervisor  # noqa: PLC0415

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    Supervisor(server).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparseinst_server",
        description="Serve a model repository with a real Triton on this machine, until Ctrl-C.",
    )
    parser.add_argument(
        "--check", action="store_true", help="only say whether Triton can run here, and what is missing"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("build/model_repository"),
        help="folder of models (default: %(default)s)",
    )
    parser.add_argument(
        "--config-name", default="cpu", help="preset to serve: cpu, cpu-int8, ... (default: %(default)s)"
    )
    parser.add_argument(
        "--control",
        choices=tuple(CONTROL),
        default="none",
        help="poll: take up new versions by itself; explicit: load what it is told to (default: %(default)s)",
    )
    parser.add_argument("--http-port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, default=8002, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=Path("build/triton.log"), help="Triton's log (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        help="seconds until the first picture must be through (default: %(default)g)",
    )
    parser.add_argument(
        "--supervise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="repair a Triton that no longer answers; otherwise end when it ends (default: supervise)",
    )
    doors.add_arguments(parser)
    parser.add_argument(
        "triton", nargs="*", metavar="-- OPTION", help="Triton's own options, such as --trace-config=mode=opentelemetry"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
