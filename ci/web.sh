#!/usr/bin/env bash
# The web page until Ctrl-C: in front of the server that SPARSEINST_URL names, else of a real Triton of its own on free
# ports with $MODEL by $PRESET. Arguments go to `python -m sparseinst_web`; WEB_PORT is its port, 0 takes a free one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
page=(.venv-serve/bin/python -m sparseinst_web --port "${WEB_PORT:-8080}" --examples assets/scenes/images "$@")
[[ -z ${SPARSEINST_URL:-} ]] || exec "${page[@]}"
ci/repository.sh
exec .venv-serve/bin/python ci/with_server.py "${page[@]}"
