#!/usr/bin/env bash
# Write bills of materials (CycloneDX 1.6, JSON, reproducible) into build/sbom: of both environments as they are
# installed, and of each image's locked requirements. Nothing is asked over the network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cyclonedx=.venv/bin/cyclonedx-py
mkdir -p build/sbom
for env in .venv .venv-serve; do
  [[ -x $env/bin/python ]] || continue
  "$cyclonedx" environment --output-reproducible --pyproject pyproject.toml --mc-type application \
    --output-file "build/sbom/${env#.}.cdx.json" "$env/bin/python"
done
for lock in deploy/docker/*.lock; do
  name=${lock##*/}
  "$cyclonedx" requirements --output-reproducible --pyproject pyproject.toml \
    --output-file "build/sbom/image-${name%.lock}.cdx.json" "$lock"
done
.venv/bin/python - build/sbom/*.cdx.json <<'PYTHON'
import json, sys

for path in sys.argv[1:]:
    with open(path) as file:
        print(f"{path}: {len(json.load(file)['components'])} components")
PYTHON
