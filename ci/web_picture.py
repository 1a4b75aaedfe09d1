"""Draw docs/pictures/web.png: the page on a desk and on a phone, with a bundled scene, from a real Triton.

    .venv-serve/bin/python ci/with_server.py .venv/bin/python ci/web_picture.py

Needs Chromium on PATH (Debian: apt-get install chromium fonts-inter). SPARSEINST_URL names the server.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from sparseinst_runtime.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
SCENE = ROOT / "assets" / "scenes" / "images" / "scene_09.jpg"
OUT = ROOT / "docs" / "pictures" / "web.png"
DESK, PHONE = (1280, 800), (380, 800)
GAP = 24


def main() -> int:
    """Serve the page, take both pictures, put them side by side; gives the exit status."""
    chromium = shutil.which("chromium")
    if chromium is None or not os.environ.get("SPARSEINST_URL"):
        sys.stderr.write(
            "web_picture.py: wanted chromium on PATH and a server in SPARSEINST_URL; see its first lines\n"
        )
        return 2
    command = [sys.executable, "-m", "sparseinst_web", "--port", "0"]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        address = gateway.stdout.readline().split()[1] if gateway.stdout else ""
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            desk, phone = _desk(browser, address), _phone(browser, address)
            browser.close()
    finally:
        gateway.terminate()
        gateway.wait()
    both = Image.new("RGB", (DESK[0] + GAP + PHONE[0], DESK[1]), "white")
    both.paste(desk, (0, 0))
    both.paste(phone, (DESK[0] + GAP, 0))
    file = io.BytesIO()
    small = both.resize((1200, round(both.height * 1200 / both.width)), Image.Resampling.LANCZOS)
    colours = small.quantize(256, Image.Quantize.MAXCOVERAGE)  # rare ones too, such as the lamp's
    small.quantize(palette=colours).save(file, "PNG", optimize=True)
    atomic_write(OUT, file.getvalue())
    sys.stdout.write(f"{OUT.relative_to(ROOT)}: {len(file.getvalue()) / 1000:.0f} kB\n")
    return 0


def _desk(browser: Browser, address: str) -> Image.Image:
    page = _segmented(browser, address, DESK, "light")
    canvas = page.locator("#stage canvas")
    canvas.hover()  # waits until it no longer moves
    box = canvas.bounding_box()
    if box is None:
        raise RuntimeError("the page has no stage; did its HTML change?")
    canvas.hover(position={"x": 0.3 * box["width"], "y": 0.5 * box["height"]})  # the elephant
    page.wait_for_selector("#stage .tip >> visible=true")
    return _shot(page)


def _phone(browser: Browser, address: str) -> Image.Image:
    return _shot(_segmented(browser, address, PHONE, "dark", touch=True))


def _segmented(
    browser: Browser, address: str, size: tuple[int, int], scheme: Literal["light", "dark"], *, touch: bool = False
) -> Page:
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion="reduce",
        has_touch=touch,
        is_mobile=touch,
    )
    page.goto(address)
    page.wait_for_selector("#server[data-state=up]")
    _choose(page)
    (page.tap if touch else page.click)("#clear")
    _choose(page)  # by now everything is warm, and the time shown is the usual one
    return page


def _choose(page: Page) -> None:
    page.set_input_files("input[type=file] >> visible=true", SCENE)
    page.wait_for_selector("#stage[data-status=done] img.ready")


def _shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
