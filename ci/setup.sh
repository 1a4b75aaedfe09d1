#!/usr/bin/env bash
# Build the environments that the other verbs run in. What is installed is skipped; an interrupted run is taken up again.
#   ci/setup.sh train   .venv        training, export, client, checks (torch: several GB)
#   ci/setup.sh serve   .venv-serve  the local Triton, its CPU engine, the client and its benchmark; no torch
#   ci/setup.sh all     both
#   ci/setup.sh docs    build/tools/docs-venv   what builds the site of the documentation
# PYTHON=/path/to/python3.12 chooses the interpreter. pip obeys your own pip settings and PIP_* variables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The wheel that carries the real tritonserver binary (2.51.0). --no-deps: its Python API is never used.
PYTRITON=nvidia-pytriton==0.7.0

fail() {
  echo "setup: $*" >&2
  exit 1
}

# As root on Debian and Ubuntu install a package. False, with nothing done, where that is not so, or where the package is
# there already: then what failed has another cause, and the system is left alone.
apt_install() { # package
  [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null || return 1
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) != installed ]] || return 1
  echo "setup: apt-get install $1"
  apt-get update -qq || return 1
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$1" >/dev/null
}

choose_python() { # environment folder, newest minor version: prints the first interpreter from 3.10 to that
  local env=$1 newest=$2 candidate candidates=(python3 python3.13 python3.12 python3.11 python3.10)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "$env needs Python 3.10 to 3.$newest; none among: ${candidates[*]}. Name one: make setup PYTHON=/path/to/python3.12"
}

version_of() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }

create() { # environment folder, interpreter
  local env=$1 python=$2 package
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    apt_install "$package" || fail "$python cannot make environments. Debian, Ubuntu: sudo apt-get install -y $package"
  fi
  "$python" -m venv --clear "$env"
}

pip_install() { # environment folder, pip arguments...
  local env=$1 quiet=()
  shift
  [[ -t 1 ]] || quiet=(--quiet)
  "$env/bin/python" -m pip install --disable-pip-version-check --no-input "${quiet[@]}" "$@"
}

build() { # environment folder, newest minor version of Python, function that fills the environment
  local env=$1 newest=$2 fill=$3 python stamp
  python=$(choose_python "$env" "$newest")
  stamp=$({ version_of "$python" && echo "$PWD" && cat pyproject.toml ci/setup.sh; } | sha256sum)
  [[ $(cat "$env/.installed" 2>/dev/null) != "$stamp" ]] || return 0
  echo "setup: $env, $("$python" -V)"
  rm -f "$env/.installed"
  if [[ $(version_of "$env/bin/python") != $(version_of "$python") ]] || ! "$env/bin/python" -m pip --version &>/dev/null; then
    create "$env" "$python"
  fi
  # A killed pip may leave a package that only looks installed: pip writes RECORD last.
  find "$env"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' ! -exec test -e '{}/RECORD' \; -exec rm -r '{}' +
  "$fill" "$env"
  echo "$stamp" >"$env/.installed"
}

fill_train() { # environment folder
  pip_install "$1" --editable '.[train,export,client,bulk,web,dev]'
  # For `sparseinst-client video --track`. --no-deps: opencv-python would take the place of opencv-python-headless.
  pip_install "$1" --no-deps 'trackers>=2.6,<3'
  # The tests of the web page drive it; without it they say so and are skipped.
  command -v chromium >/dev/null || apt_install chromium || echo "setup: no chromium: the web page will not be tested"
}

fill_serve() { # environment folder
  local env=$1 words
  [[ $(uname -s) == Linux ]] || fail "the local Triton is a Linux program; on $(uname -s) use a Linux container"
  pip_install "$env" --editable '.[serve,bench,web]'
  pip_install "$env" --no-deps "$PYTRITON"
  # Triton's Python backend needs the interpreter's shared library, which Debian packages apart.
  if ! words=$("$env/bin/python" -m sparseinst_server --check 2>&1); then
    apt_install "$("$env/bin/python" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')" || fail "$words"
    "$env/bin/python" -m sparseinst_server --check
  fi
}

fill_docs() { pip_install "$1" --editable '.[docs]'; } # environment folder

train() { build .venv 13 fill_train; }
docs() { build build/tools/docs-venv 13 fill_docs; }
serve() { build .venv-serve 12 fill_serve; } # Triton's Python backend needs numpy 1, whose wheels end at Python 3.12

case ${1:-all} in
  train) train ;;
  serve) serve ;;
  docs) docs ;;
  all)
    serve
    train
    ;;
  *) fail "unknown environment '$1'; wanted train, serve, docs or all" ;;
esac
