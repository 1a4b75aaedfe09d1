#!/usr/bin/env bash
# Assemble build/model_repository from the template and the model folder $MODEL; skipped while nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=${MODEL:-assets/models/animals}
target=build/model_repository
stamp=build/model_repository.stamp # beside the repository: Triton reads every folder inside

current() {
  [[ -d $target && $(cat "$stamp" 2>/dev/null) == "$model" ]] &&
    [[ -z $(find "$model/model.onnx" "$model/contract.json" model_repository export -newer "$stamp" -print -quit) ]]
}

if ! current; then
  mkdir -p build
  .venv-serve/bin/sparseinst-export repository --onnx "$model/model.onnx" --out "$target"
  echo "$model" >"$stamp"
fi
