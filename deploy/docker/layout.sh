#!/bin/sh
# Lay out what an image of the server has besides its packages, from the source in the working directory: layout.sh DIR
set -eu
to=$1
mkdir -p "$to/build_engine" "$to/models/animals" "$to/bin"
cp -R model_repository "$to/"
cp assets/models/animals/model.onnx assets/models/animals/model.int8.onnx assets/models/animals/contract.json "$to/models/animals/"
cp deploy/build_engine/build_plan.py deploy/build_engine/cached_plan.py deploy/build_engine/triton_image.py "$to/build_engine/"
cp deploy/helm/sparseinst/files/probe.py "$to/probe.py"
cp deploy/helm/sparseinst/files/serve.sh "$to/serve.sh"
cp deploy/docker/run.sh "$to/run"
find "$to" -name __pycache__ -prune -exec rm -rf {} +
chmod -R go+rX,go-w "$to"
chmod 755 "$to/run"
