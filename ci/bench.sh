#!/usr/bin/env bash
# A real Triton on free ports, measured by clients/benchmark.py. Arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ci/repository.sh
exec .venv-serve/bin/python ci/with_server.py \
  .venv-serve/bin/python clients/benchmark.py assets/scenes/images "$@"
