#!/bin/sh
# What an init container runs: the model repository of this pod, from the exported model: repository.sh PRESET SECONDS OPTION...
# /model has model.onnx, contract.json and perhaps model.int8.onnx; the repository becomes /models/repository. For the preset
# tensorrt with a plan for this node's GPU, from the cache in /engines or built there, within SECONDS and with build_plan.py's
# OPTIONs.
set -eu
here=/opt/sparseinst
model=/model
repository=/models/repository
preset=$1
seconds=$2
shift 2

for file in model.onnx contract.json; do
  if [ ! -f "$model/$file" ]; then
    echo "repository: the model has no $file; wanted the folder that sparseinst-export onnx wrote: see the chart's values model.*" >&2
    exit 1
  fi
done
if [ "$preset" = tensorrt ]; then
  plans=$(python3 "$here/build_engine/cached_plan.py" --onnx "$model/model.onnx" --cache /engines --timeout "$seconds" -- "$@")
  set -- --plans "$plans"
else
  set --
fi
if [ -f "$model/model.int8.onnx" ]; then
  set -- "$@" --int8 "$model/model.int8.onnx"
fi
python3 -m sparseinst_export.cli repository --replace --template "$here/model_repository" --onnx "$model/model.onnx" "$@" --out "$repository"
python3 -m sparseinst_export.cli repository --check "$repository" --preset "$preset"
