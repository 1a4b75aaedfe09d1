"""Run a command while a real Triton serves build/model_repository on free ports of this machine.

    .venv-serve/bin/python ci/with_server.py sparseinst-client image picture.jpg

The environment variable PRESET names the preset (cpu). The command finds the server in SPARSEINST_URL, its HTTP side in
SPARSEINST_HTTP_URL. Its exit status is this script's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sparseinst_server import InstallationError, ServerError, TritonServer
from sparseinst_server.leave import leave_by_signals

REPOSITORY = Path(__file__).resolve().parents[1] / "build" / "model_repository"


def main(command: list[str]) -> int:
    """Start the server, run the command, stop the server whatever happened; gives the command's exit status."""
    if not command:
        sys.stderr.write("with_server.py: no command; wanted the command to run while the server is up\n")
        return 2
    leave_by_signals()
    with TritonServer(REPOSITORY, config_name=os.environ.get("PRESET") or "cpu") as server:
        environment = os.environ | {"SPARSEINST_URL": server.grpc_url, "SPARSEINST_HTTP_URL": server.http_url}
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InstallationError, ServerError) as error:
        sys.exit(str(error))
