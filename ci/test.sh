#!/usr/bin/env bash
# The tests, in .venv; those of the server start the real Triton from .venv-serve. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export SPARSEINST_SERVE_PYTHON="$PWD/.venv-serve/bin/python"
exec .venv/bin/python -m pytest "$@"
