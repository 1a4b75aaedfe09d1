#!/usr/bin/env bash
# Install NVIDIA's perf_analyzer as build/tools/perf_analyzer. What is there and runs is kept; the system is left alone.
# The program wants glibc 2.38 (Debian 13, Ubuntu 24.04). On an older Debian or Ubuntu it gets the libraries of that release
# beside it, in build/tools alone: apt checks their signatures with this machine's own keys. Nothing needs root.
# PYTHON=/path/to/python3 names an interpreter with pip (default: .venv-serve's). pip and apt obey your own settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=2.60.0
SHA256_X86_64=23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25
SHA256_AARCH64=c2ece0adb7760ea1abc258222d80bf8e367fa9639401406b96da2c9b55131d29
PACKAGES=(libc6 libstdc++6 libgcc-s1 libssl3t64 zlib1g libzstd1)

tools=build/tools
home=$tools/perf_analyzer-$VERSION # the program, and its libraries where the system's are too old
python=${PYTHON:-.venv-serve/bin/python}

fail() {
  echo "install_perf_analyzer: $*" >&2
  echo "install_perf_analyzer: the benchmark's own load generator needs none of this: make bench ARGS='--scenarios single-stream server offline'" >&2
  exit 1
}

runs() { "$1" --version &>/dev/null; } # program

# The release that the libraries come from, as: URI suite keyring. The mirror is the one that this machine uses.
release() {
  local id default suite keyring mirror
  id=$(sed -n 's/^ID="\{0,1\}\([a-z]*\)"\{0,1\}$/\1/p' /etc/os-release 2>/dev/null)
  case $id in
    debian) suite=trixie keyring=/usr/share/keyrings/debian-archive-keyring.gpg default=http://deb.debian.org/debian ;;
    ubuntu) suite=noble keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg default=http://archive.ubuntu.com/ubuntu ;;
    *) return 1 ;;
  esac
  [[ -f $keyring ]] || return 1
  [[ $id != ubuntu || $machine == x86_64 ]] || default=http://ports.ubuntu.com/ubuntu-ports
  mirror=$(apt-get indextargets --format "\$(REPO_URI)" 2>/dev/null | grep -m1 -E "/(debian|ubuntu|ubuntu-ports)/?$") || mirror=$default
  echo "$mirror $suite $keyring"
}

# The libraries, unpacked into a folder; a package list and a cache of their own, so that apt's are left as they are.
libraries() { # folder
  local folder=$1 where uri suite keyring root deb
  for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || fail "perf_analyzer $VERSION wants glibc 2.38, this system has $glibc and no $tool to fetch a newer one with"
  done
  where=$(release) || fail "perf_analyzer $VERSION wants glibc 2.38, this system has $glibc, and newer libraries are known for Debian and Ubuntu only"
  read -r uri suite keyring <<<"$where"
  root=$work/apt
  mkdir -p "$root"/{lists/partial,archives/partial,debs} "$folder"
  echo "deb [signed-by=$keyring] $uri $suite main" >"$root/sources.list"
  : >"$root/status"
  local options=(
    -o Dir::Etc::SourceList="$root/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$root/lists"
    -o Dir::State::status="$root/status" -o Dir::Cache="$root" -o Dir::Cache::Archives="$root/archives"
    -o APT::Sandbox::User= # the folder is ours alone
  )
  echo "install_perf_analyzer: libraries of $suite, since this system's glibc is $glibc"
  apt-get "${options[@]}" -qq update >&2 || fail "apt cannot read the package list of $suite"
  (cd "$root/debs" && apt-get "${options[@]}" -qq download "${PACKAGES[@]}" >&2) || fail "apt cannot fetch ${PACKAGES[*]}"
  for deb in "$root"/debs/*.deb; do
    dpkg-deb -x "$deb" "$root/unpacked"
  done
  # The libraries alone, found by name; folders inside (gconv, engines) belong to programs that are not run here.
  find "$root/unpacked/usr/lib/$machine-linux-gnu" -maxdepth 1 -name '*.so*' -exec cp -a -t "$folder" {} +
}

[[ $(uname -s) == Linux ]] || fail "perf_analyzer is a Linux program, this is $(uname -s)"
machine=$(uname -m)
case $machine in
  x86_64) sha256=$SHA256_X86_64 private_loader=ld-linux-x86-64.so.2 ;;
  aarch64) sha256=$SHA256_AARCH64 private_loader=ld-linux-aarch64.so.1 ;;
  *) fail "perf_analyzer $VERSION is there for x86_64 and aarch64, this is $machine" ;;
esac
if [[ $(cat "$home/.installed" 2>/dev/null) == "$VERSION" ]] && runs "$tools/perf_analyzer"; then
  exit 0
fi
"$python" -m pip --version &>/dev/null || fail "no Python with pip at $python; ci/setup.sh serve makes it, PYTHON names another"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo "unknown")
mkdir -p "$tools"
work=$(mktemp -d "$PWD/$tools/.perf_analyzer.XXXXXX") # absolute: apt changes folders
trap 'rm -rf "$work"' EXIT

echo "install_perf_analyzer: perf_analyzer $VERSION"
echo "perf-analyzer==$VERSION --hash=sha256:$sha256" >"$work/requirements"
"$python" -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes \
  --python-version 312 --platform "manylinux_2_38_$machine" --dest "$work" --requirement "$work/requirements" \
  || fail "pip cannot fetch perf-analyzer $VERSION for $machine"
"$python" -m zipfile -e "$work"/perf_analyzer-*.whl "$work/wheel"
mkdir "$work/home"
cp "$work/wheel/perf_analyzer/bin/perf_analyzer" "$work/home/"
cp "$work"/wheel/perf_analyzer-*.dist-info/licenses/LICENSE "$work/home/"
chmod +x "$work/home/perf_analyzer"
loader= # none: the system's own
if ! runs "$work/home/perf_analyzer"; then
  libraries "$work/home/lib"
  loader="\"\$home/lib/$private_loader\" --library-path \"\$home/lib\" "
fi
# The wrapper finds the program beside itself, wherever the checkout lies.
cat >"$work/wrapper" <<WRAPPER
#!/bin/sh
# Written by ci/install_perf_analyzer.sh.
home=\$(dirname "\$(readlink -f "\$0")")/${home##*/}
exec $loader"\$home/perf_analyzer" "\$@"
WRAPPER
chmod +x "$work/wrapper"
echo "$VERSION" >"$work/home/.installed"
rm -rf "$home"
mv "$work/home" "$home"
mv "$work/wrapper" "$tools/perf_analyzer"
runs "$tools/perf_analyzer" || fail "what was installed in $home does not run: $("$tools/perf_analyzer" --version 2>&1 | tail -1)"
echo "install_perf_analyzer: $tools/perf_analyzer"
