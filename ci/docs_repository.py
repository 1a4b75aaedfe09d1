"""Hook of MkDocs: what the documentation links to outside of docs/ becomes part of the site, under repository/.

Pages link to the repository's files as a reader of the checkout needs it (`../deploy/prometheus/rules.yaml`). In the
site such a file is a page: Markdown as it is, other text as a listing, a folder as its README or else as the names in
it; pictures are copied. So the site is whole wherever it lies. A link to what does not exist stays as it is, and the
strict build names it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS, COPIES = "docs/", "repository/"
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
FENCE = "~" * 8
LISTING = "---\nsearch: {{exclude: true}}\n---\n\n# " + "`{title}`\n\n{fence}{language}\n{text}\n{fence}\n"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".sh": "bash"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, and what that links to in turn."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for target in filter(None, (_target(page, link) for link in LINK.findall(text))):
            address = _address(target)
            if not target.startswith(DOCS) and files.get_file_from_path(address) is None:
                added = _added(config, target, address)
                files.append(added)
                if target.endswith(".md"):
                    waiting.append((address, added.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the page's links to files of the repository into links within the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def within(link: re.Match[str]) -> str:
        target = _target(page.file.src_uri, link.group())
        return posixpath.relpath(_address(target), folder or ".") if target else link.group()

    return LINK.sub(within, markdown)


def _target(page: str, link: str) -> str:
    """The path in the repository that a link of a page names; "" where nothing of the repository is there."""
    source = page.removeprefix(COPIES) if page.startswith(COPIES) else DOCS + page
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if target.startswith(("..", "/")) or not (ROOT / target).exists():
        return ""
    # A folder's README speaks for it, as on a forge; both would be the same page of the site.
    readme = posixpath.join(target, "README.md")
    return readme if (ROOT / readme).is_file() else target


def _address(target: str) -> str:
    """Where a path of the repository lies among the sources of the site."""
    if target.startswith(DOCS):
        return target.removeprefix(DOCS)
    if (ROOT / target).is_dir():
        return f"{COPIES}{target}/index.md"
    return COPIES + target + ("" if _text(target) is None or target.endswith(".md") else ".md")


def _text(target: str) -> str | None:
    """What a file says, or what a folder holds; None for pictures and other binary files."""
    path = ROOT / target
    if path.is_dir():
        entries = (entry for entry in path.iterdir() if entry.name != "__pycache__")
        return "\n".join(sorted(entry.name + "/" * entry.is_dir() for entry in entries))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _added(config: MkDocsConfig, target: str, address: str) -> File:
    text = _text(target)
    given: dict[str, Any] = {"abs_src_path": str(ROOT / target)}
    if text is not None:
        language = LANGUAGES.get(posixpath.splitext(target)[1], "text")
        listing = LISTING.format(title=target, fence=FENCE, language=language, text=text)
        given = {"content": text if target.endswith(".md") else listing}
    return File.generated(config, address, inclusion=InclusionLevel.NOT_IN_NAV, **given)
