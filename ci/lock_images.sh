#!/usr/bin/env bash
# Write deploy/docker/*.lock: every package of each image with its version and hashes, resolved by uv from pyproject.toml
# for the Python and platform of the image. `ci/lock_images.sh --upgrade` takes newer versions; without it those that are
# locked stay where they still fit. The index is that of uv's own settings (UV_*).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() { # name, version of Python, platform, arguments...
  local lock=deploy/docker/$1.lock python=$2 platform=$3
  shift 3
  .venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --only-binary :all: \
    --python-version "$python" --python-platform "$platform" --output-file "$lock" "$@"
  echo "$lock: $(grep -c '==' "$lock") packages"
}

# Ubuntu 24.04 of Triton's image; OpenVINO too, so that it serves the presets for CPUs.
lock server 3.12 x86_64-manylinux_2_39 pyproject.toml deploy/docker/server.in "$@"
# Debian 12.
lock cpu 3.11 x86_64-manylinux_2_36 pyproject.toml --extra serve "$@"
lock triton 3.11 x86_64-manylinux_2_36 --no-deps deploy/docker/triton.in "$@"
lock training 3.11 x86_64-manylinux_2_36 pyproject.toml --extra train "$@"
# What builds the wheel, in all of them.
lock build 3.11 x86_64-manylinux_2_36 deploy/docker/build.in "$@"
