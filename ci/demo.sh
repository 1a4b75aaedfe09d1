#!/usr/bin/env bash
# A real Triton on free ports, one picture through it by the client: a table of instances and an overlay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ci/repository.sh
mkdir -p build/demo
exec .venv-serve/bin/python ci/with_server.py \
  .venv-serve/bin/sparseinst-client image "${PICTURE:-assets/scenes/images/scene_01.jpg}" \
  --out build/demo/overlay.png
