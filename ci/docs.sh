#!/usr/bin/env bash
# Build the site of the documentation into build/site. Broken links and anchors fail it, and so does a page that would
# fetch anything from elsewhere. To read it, search included: open build/site/index.html.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ci/install_docs_scripts.sh
python=build/tools/docs-venv/bin/python
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --clean
"$python" ci/check_site.py build/site
