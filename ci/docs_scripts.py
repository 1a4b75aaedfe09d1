"""Hook of MkDocs: the scripts of ci/install_docs_scripts.sh become part of the site.

Each page loads the small one, by which the search runs from a folder (`extra.polyfills` of mkdocs.yml). The large one
draws diagrams: only the pages that have any load it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

SCRIPTS = Path(__file__).resolve().parents[1] / "build" / "tools" / "docs-scripts"
ADDRESS = "assets/javascripts/"
MERMAID, WORKER = "mermaid.js", "iframe-worker.js"
DIAGRAM = re.compile(r'<pre class="mermaid">.*?</pre>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the scripts."""
    for name in (MERMAID, WORKER):
        if not (SCRIPTS / name).is_file():
            raise PluginError(f"{name} is missing, which the site brings along; `make docs` installs it first")
        files.append(File.generated(config, ADDRESS + name, abs_src_path=str(SCRIPTS / name)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Have a page with diagrams load what draws them, before the theme's script would fetch it.

    Around each comes an element that scrolls: on a phone a diagram would be too small to read.
    """
    framed, diagrams = DIAGRAM.subn(r'<div class="diagram">\g<0></div>', output)
    if not diagrams:
        return output
    script = f'<script src="{get_relative_url(ADDRESS + MERMAID, page.url)}"></script>'
    return framed.replace("</head>", script + "</head>", 1)
