#!/usr/bin/env bash
# Assemble build/model_repository from the template and the model folder $MODEL, with model.int8.onnx where that has one;
# skipped while nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=${MODEL:-assets/models/animals}
target=build/model_repository
int8=() # options for the graph that PRESET=cpu-int8 serves
[[ ! -f $model/model.int8.onnx ]] || int8=(--int8 "$model/model.int8.onnx")
stamp=build/model_repository.stamp # beside the repository: Triton reads every folder inside

current() {
  [[ -d $target && $(cat "$stamp" 2>/dev/null) == "$model${int8[*]}" ]] &&
    [[ -z $(find "$model/model.onnx" "${int8[@]:1}" "$model/contract.json" model_repository export -newer "$stamp" -print -quit) ]]
}

if ! current; then
  mkdir -p build
  .venv-serve/bin/sparseinst-export repository --replace --onnx "$model/model.onnx" "${int8[@]}" --out "$target"
  echo "$model${int8[*]}" >"$stamp"
fi
