#!/usr/bin/env bash
# Compare what is served with plain PyTorch and with what else segments instances, in turn on this machine. Arguments go
# to the comparison; build/peers gets the report. taskset -c 0 ci/bench_peers.sh gives everybody one core.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHONPATH=ci exec .venv/bin/python -m peers "$@"
