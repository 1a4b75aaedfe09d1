"""Whether a built site keeps to itself: no page or style sheet may load anything from another host.

    python ci/check_site.py build/site

Links that a reader may follow are free to lead elsewhere; scripts, styles, fonts, pictures and frames are not.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADING = {"src", "srcset", "poster", "data"}
LOADED_LINKS = {"stylesheet", "preload", "modulepreload", "preconnect", "dns-prefetch", "icon", "manifest"}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
# Material's own script would fetch mermaid for elements of this class.
FETCHED_BY_SCRIPT = "mermaid"


class _Loads(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses that a browser loads by itself."""
        values = {name: value or "" for name, value in attrs}
        loads = tag == "link" and LOADED_LINKS & set(values.get("rel", "").lower().split())
        names = LOADING | ({"href"} if loads else set())
        self.found += [values[name] for name in names & values.keys() if ELSEWHERE.match(values[name])]
        self.found += IN_STYLES.findall(values.get("style", ""))
        if FETCHED_BY_SCRIPT in values.get("class", "").split():
            self.found.append(f"class {FETCHED_BY_SCRIPT}")


def loaded_from_elsewhere(site: Path) -> list[str]:
    """A line for each address that a page (.html) or style sheet (.css) of the folder loads from another host."""
    problems = []
    for path in sorted(site.rglob("*.html")):
        page = _Loads()
        page.feed(path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(site)}: {address}" for address in page.found]
    for path in sorted(site.rglob("*.css")):
        found = IN_STYLES.findall(path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(site)}: {address}" for address in found]
    return problems


def main(arguments: list[str]) -> int:
    """Check the folder that is named; 1 where something is loaded from elsewhere, 2 without a site."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "index.html").is_file():
        sys.stderr.write(f"check_site: got {arguments}; wanted the folder of a built site; `make docs` makes one\n")
        return 2
    problems = loaded_from_elsewhere(Path(arguments[0]))
    sys.stderr.writelines(f"check_site: loaded from elsewhere: {problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
