#!/usr/bin/env bash
# Remove what the project generates. The environments stay: they take long to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
find ci clients deploy export model_repository runtime tests training -name __pycache__ -type d -prune -exec rm -rf {} +
