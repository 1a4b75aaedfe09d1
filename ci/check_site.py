"""Whether a built site keeps to itself: no page or style sheet may load anything from another host.

    python ci/check_site.py build/site

Links that a reader may follow are free to lead elsewhere; scripts, styles, fonts, pictures and frames are not, and what
a page loads from the site must be there. A page with diagrams brings along what draws them: the theme would fetch it.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"src", "srcset", "poster", "data"}
LOADED_LINKS = {"stylesheet", "preload", "modulepreload", "preconnect", "dns-prefetch", "icon", "manifest"}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
DIAGRAM, DRAWN_BY = "mermaid", "mermaid.js"


class _Loads(HTMLParser):
    """Collects the addresses that a browser loads by itself, and whether the page has diagrams."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.in_styles: list[str] = []
        self.diagrams = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what this element loads."""
        values = {name: value or "" for name, value in attrs}
        loads = tag == "link" and LOADED_LINKS & set(values.get("rel", "").lower().split())
        names = LOADING | ({"href"} if loads else set())
        self.addresses += [values[name] for name in names & values.keys()]
        self.in_styles += IN_STYLES.findall(values.get("style", ""))
        if tag == "script":
            self.scripts.append(values.get("src", ""))
        self.diagrams |= DIAGRAM in values.get("class", "").split()


def problems(site: Path) -> list[str]:
    """A line for each fault of a page (.html) or style sheet (.css) in the folder.

    It loads from another host, or what it loads from the site is missing, or it has a diagram and nothing to draw it.
    """
    found = []
    for path in sorted(site.rglob("*.html")):
        page = _Loads()
        page.feed(path.read_text(encoding="utf-8"))
        faults = [_fault(site, path, address) for address in page.addresses]
        faults += [f"loads from elsewhere: {address}" for address in page.in_styles]
        if page.diagrams and not any(script.split("/")[-1] == DRAWN_BY for script in page.scripts):
            faults.append(f"has a diagram, but does not load {DRAWN_BY}: the theme would fetch it from elsewhere")
        found += [f"{path.relative_to(site)} {fault}" for fault in faults if fault]
    for path in sorted(site.rglob("*.css")):
        addresses = IN_STYLES.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)} loads from elsewhere: {address}" for address in addresses]
    return found


def _fault(site: Path, page: Path, address: str) -> str:
    """What is wrong with an address that a page loads; "" where nothing is."""
    if ELSEWHERE.match(address):
        return f"loads from elsewhere: {address}"
    parts = urlsplit(address)
    if parts.scheme or not parts.path:  # data: carries what it shows
        return ""
    there = (site if parts.path.startswith("/") else page.parent) / unquote(parts.path).lstrip("/")
    return "" if there.is_file() else f"loads what is not in the site: {address}"


def main(arguments: list[str]) -> int:
    """Check the folder that is named; 1 where something is at fault, 2 without a site."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "index.html").is_file():
        sys.stderr.write(f"check_site: got {arguments}; wanted the folder of a built site; `make docs` makes one\n")
        return 2
    found = problems(Path(arguments[0]))
    sys.stderr.writelines(f"check_site: {line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
