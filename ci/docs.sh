#!/usr/bin/env bash
# Build the site of the documentation into build/site. Broken links and anchors fail it, and so does a page that would
# fetch anything from elsewhere. To read it: open build/site/index.html; searching wants a web server:
#   python3 -m http.server --directory build/site
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=build/tools/docs-venv/bin/python
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --clean
"$python" ci/check_site.py build/site
