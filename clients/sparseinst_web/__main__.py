"""Serve the page until SIGINT or SIGTERM.

    python -m sparseinst_web --url grpc://127.0.0.1:8001 --port 8080

Exit status: 0 stopped by a signal, 1 cannot start and one sentence on stderr says why, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from sparseinst_client import Client
from sparseinst_web.app import create_app
from sparseinst_web.settings import Settings

DEFAULT_URL = "grpc://127.0.0.1:8001"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        Client(options.url).close()  # an address that cannot be one is wrong usage
        settings = Settings(
            url=options.url,
            max_bytes=int(options.max_megabytes * 2**20),
            deadline=options.deadline,
            concurrency=options.concurrency,
            waiting=options.waiting,
            origins=tuple(options.allow_origin),
            examples=options.examples,
        )
    except ValueError as error:
        parser.error(str(error))
    if (options.tls_certificate is None) != (options.tls_key is None):
        parser.error("--tls-certificate and --tls-key go together")
    try:
        listening = _listen(options.host, options.port)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        sys.stderr.write(f"cannot listen on {where}: {error.strerror}; --port 0 takes a free port\n")
        return 1
    scheme = "https" if options.tls_key else "http"
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"page    {scheme}://{shown}:{port}/\nserver  {options.url}\nstop with Ctrl-C\n")
    sys.stdout.flush()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        config = uvicorn.Config(
            create_app(settings),
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=5,
            ssl_certfile=options.tls_certificate,
            ssl_keyfile=options.tls_key,
        )
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has stopped by then, and raises the signal once more
        sys.stderr.write("stopped\n")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparseinst_web",
        description="Serve a page that segments pictures with a SparseInst server, until Ctrl-C.",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get("SPARSEINST_URL") or DEFAULT_URL,
        help="the server, grpc://host:port or http://host:port; SPARSEINST_URL sets it too (now: %(default)s)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (%(default)s)")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="folder of pictures that the page offers to try")
    parser.add_argument("--max-megabytes", type=float, default=32, metavar="MB", help="largest picture (%(default)s)")
    parser.add_argument("--deadline", type=float, default=30, metavar="SECONDS", help="for one request (%(default)s)")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=4,
        metavar="N",
        help="pictures sent to the server at once (%(default)s)",
    )
    parser.add_argument(
        "--waiting", type=int, default=16, metavar="N", help="pictures that may wait; more get a 503 (%(default)s)"
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another site whose pages may use this gateway, https://host; may be repeated (none)",
    )
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="serve https; phones' cameras need it")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    return parser


if __name__ == "__main__":
    sys.exit(main())
