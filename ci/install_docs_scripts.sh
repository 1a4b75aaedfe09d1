#!/usr/bin/env bash
# Install the two scripts that the site of the documentation brings along, into build/tools/docs-scripts: mermaid draws
# its diagrams, iframe-worker lets its search run where no web server is. The theme would fetch both from elsewhere while
# a page is read. What is there and current is kept. npm obeys your own settings; nothing needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The smaller of mermaid's two builds, which has flow charts, of the major version that the theme is written for.
MERMAID_PACKAGE=@mermaid-js/tiny@11.17.2
MERMAID_SHA256=7a644017d37f93c8359790884e6b67fb1f747c78eb20475952404bd87190a3f8
WORKER_PACKAGE=iframe-worker@1.0.4
WORKER_SHA256=e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609

home=build/tools/docs-scripts

fail() {
  echo "install_docs_scripts: $*" >&2
  exit 1
}

install_script() { # npm package, SHA-256 of the script, its path in the package, its name here
  local package=$1 sha256=$2 path=$3 name=$4 archive
  echo "$sha256  $home/$name" | sha256sum --check --status 2>/dev/null && return
  command -v npm >/dev/null || fail "no npm to fetch $package with; install it (Debian, Ubuntu: apt-get install npm)"
  echo "install_docs_scripts: $package"
  archive=$(cd "$work" && npm pack --silent "$package") || fail "npm cannot fetch $package"
  tar -xzf "$work/$archive" -C "$work" "package/$path"
  echo "$sha256  $work/package/$path" | sha256sum --check --status \
    || fail "$package is not the one that was checked: the SHA-256 of its $path differs"
  mv "$work/package/$path" "$home/$name"
}

mkdir -p "$home"
work=$(mktemp -d "$PWD/build/tools/.docs-scripts.XXXXXX") # absolute: npm runs in it
trap 'rm -rf "$work"' EXIT

install_script "$MERMAID_PACKAGE" "$MERMAID_SHA256" dist/mermaid.tiny.js mermaid.js
install_script "$WORKER_PACKAGE" "$WORKER_SHA256" shim/index.js iframe-worker.js
