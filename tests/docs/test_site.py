"""The built site in a browser: from a folder as from a web server, on a phone, and never calling another host."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

PHONE = {"width": 390, "height": 800}
# Those with the widest tables, the longest commands and the deepest reference.
SOME = ["index.html", "api/client.html", "gpu.html", "performance.html", "variants.html"]


def missing(what):
    """A build machine has all; others may do without the site, or without a browser."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="module")
def site(repo_root, tmp_path_factory):
    """The site, built anew from what lies in the checkout."""
    python = repo_root / "build" / "tools" / "docs-venv" / "bin" / "python"
    if not python.exists() or not (repo_root / "build" / "tools" / "docs-scripts" / "mermaid.js").exists():
        missing("no environment that builds the site; `make docs` makes it")
    folder = tmp_path_factory.mktemp("site")
    command = [python, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def served(site):
    """The address of a web server that has the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("no chromium on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty page of a phone's size, which notes what it loads and what goes wrong in it."""
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(10_000)
    page.loaded, page.errors = [], []
    page.on("request", lambda request: page.loaded.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "response", lambda response: response.status < 400 or page.errors.append(f"{response.status}: {response.url}")
    )
    yield page
    page.close()


@pytest.fixture(params=["web server", "folder"])
def address(request, site):
    """Where a reader has the site."""
    return request.getfixturevalue("served") if request.param == "web server" else f"{site.as_uri()}/"


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_pages_load_from_the_site_alone_and_fit_a_phone(site, served, page, which):
    names = SOME if which == "some" else sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    too_wide = {}
    for name in names:
        page.goto(served + name)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            too_wide[name] = width
    assert not too_wide
    assert len(page.loaded) > len(names)
    assert not [url for url in page.loaded if not url.startswith((served, "data:", "blob:"))]
    assert page.errors == []


def test_diagrams_are_drawn(address, page):
    for name in ("index.html", "how_it_works.html", "repository/SECURITY.html"):
        page.goto(address + name)
        drawn = page.locator("div.mermaid")  # the theme puts a drawing in place of the text
        drawn.first.wait_for()
        assert all(drawn.nth(number).bounding_box()["height"] > 60 for number in range(drawn.count()))
        assert page.locator("pre.mermaid").count() == 0
    assert page.errors == []


def test_the_search_finds(address, page):
    page.goto(f"{address}index.html?q=letterbox")
    found = page.locator(".md-search-result__link").first
    found.wait_for(state="attached")
    assert "letterbox" in (found.get_attribute("href") + found.inner_text()).lower()
    assert page.errors == []
