#!/usr/bin/env bash
# Serve $MODEL by $PRESET in the foreground; SIGINT and SIGTERM stop the server cleanly. Arguments go to the server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ci/repository.sh
exec .venv-serve/bin/python -m sparseinst_server --repository build/model_repository --config-name "${PRESET:-cpu}" \
  --http-port "${HTTP_PORT:-8000}" --grpc-port "${GRPC_PORT:-8001}" --metrics-port "${METRICS_PORT:-8002}" "$@"
