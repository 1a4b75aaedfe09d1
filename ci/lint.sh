#!/usr/bin/env bash
# Style, types and shell scripts. Every check runs even when an earlier one fails; any failure fails the whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
failed=()

check() { # name, command...
  local name=$1
  shift
  echo "--- $name"
  "$@" || failed+=("$name")
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy
check "mypy --strict runtime" "$python" -m mypy --strict runtime
if shellcheck=$(PATH="$PWD/.venv/bin:$PATH" command -v shellcheck); then
  check "shellcheck" "$shellcheck" ci/*.sh .ci/run deploy/*/*.sh deploy/helm/sparseinst/files/*.sh
else
  echo "--- shellcheck: NOT RUN, it is not installed (Debian and Ubuntu: apt-get install shellcheck)"
fi

if ((${#failed[@]})); then
  printf 'lint: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
echo "lint: clean"
