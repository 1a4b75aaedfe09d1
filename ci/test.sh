#!/usr/bin/env bash
# The tests, in .venv; those of the server start the real Triton from .venv-serve. Arguments go to pytest.
#   TEST_PROCESSES   that share the tests, file by file (2); 0 runs them in pytest itself, for a debugger
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export SPARSEINST_SERVE_PYTHON="$PWD/.venv-serve/bin/python"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # processes that compute on all cores each only get into each other's way
exec .venv/bin/python -m pytest --numprocesses "${TEST_PROCESSES:-2}" --dist loadfile "$@"
