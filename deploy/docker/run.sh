#!/usr/bin/env bash
# What the server images run: a model repository from a model, then Triton in place of this shell.
#   run [FLAG...]   flags are Triton's
# Variables, with what they are when unset:
#   MODEL    folder with model.onnx and contract.json, and perhaps model.int8.onnx (the bundled model)
#   PRESET   tensorrt, cpu or cpu-int8 (that of the image)
#   ENGINES  folder that keeps TensorRT plans; give it a volume, or each start builds again (/engines)
#   MODELS   a ready model repository; where it holds one, that is served as it is (/models)
# Only /tmp must be writable, and with the preset tensorrt ENGINES.
set -euo pipefail
here=/opt/sparseinst
model=${MODEL:-$here/models/animals}
repository=${MODELS:-/models}

if [[ ! -f $repository/sparseinst/config.pbtxt ]]; then
  repository=/tmp/model_repository
  engines=()
  [[ ! -f $model/model.int8.onnx ]] || engines+=(--int8 "$model/model.int8.onnx")
  if [[ $PRESET == tensorrt ]]; then
    plans=$(python3 "$here/build_engine/cached_plan.py" --onnx "$model/model.onnx" --cache "${ENGINES:-/engines}")
    engines+=(--plans "$plans")
  fi
  python3 -m sparseinst_export.cli repository --replace --template "$here/model_repository" \
    --onnx "$model/model.onnx" "${engines[@]}" --out "$repository"
fi
exec sh "$here/serve.sh" model-repository,shared-memory,trace,logging "--model-repository=$repository" \
  "--model-config-name=$PRESET" --disable-auto-complete-config --exit-timeout-secs=30 "$@"
