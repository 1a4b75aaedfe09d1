#!/usr/bin/env bash
# Write the bundled model's card from the files beside it, or to the path that is given; a test holds the card to that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../assets/models/animals"
exec ../../../.venv/bin/sparseinst-export card --contract contract.json --weights model.safetensors \
  --evaluation validation=reports/validation.json --evaluation scenes=reports/scenes.json \
  --evaluation "validation, served in int8=reports/validation_int8.json" --verify reports/verify.json --quantization model.int8.json \
  --notes notes.md --out "${1:-README.md}"
