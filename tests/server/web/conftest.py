"""The page in a real Chromium, in front of the real Triton: a gateway, a browser, and what they complain of."""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sparseinst_client import Client
from sparseinst_web.settings import Settings

MAX_BYTES = 1 << 20  # what the gateway of these tests takes
# As Playwright describes devices. A phone has a finger in place of a mouse, and small pixels.
DEVICES = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}
# What Chromium itself writes about a request that was refused or found nobody, which some tests want.
REFUSED = re.compile(
    r"Failed to load resource: (the server responded with a status of \d+|net::ERR_CONNECTION_REFUSED)"
)


@contextmanager
def running_gateway(url: str, *options: str) -> Iterator[str]:
    """The address of a gateway in front of a server; leaving it checks that Ctrl-C ends it cleanly."""
    command = [sys.executable, "-m", "sparseinst_web", "--url", url, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        assert first.startswith("page "), first
        yield first.split()[1].rstrip("/")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0


@pytest.fixture(scope="session")
def settings(server, scenes) -> Settings:
    """Of a gateway in front of the running server, for tests without a browser."""
    return Settings(url=server.grpc_url, max_bytes=MAX_BYTES, examples=scenes / "images")


@pytest.fixture(scope="session")
def gateway(server, scenes) -> Iterator[str]:
    """A gateway as people start it, in front of the running server."""
    examples = ("--examples", str(scenes / "images"))
    with running_gateway(server.grpc_url, "--max-megabytes", str(MAX_BYTES / 2**20), *examples) as address:
        yield address


@pytest.fixture(scope="session")
def picture(scenes) -> Path:
    """A scene with several animals."""
    return scenes / "images" / "scene_03.jpg"


@pytest.fixture(scope="session")
def expected(server, picture) -> list:
    """What the client finds in `picture`, down to the gateway's floor: (class, score, mask), best first."""
    with Client(server.grpc_url) as client:
        found = client.segment(picture, score_threshold=0.05)
        names = [client.classes[label] for label in found.labels]
    return list(zip(names, found.scores.tolist(), found.masks(), strict=True))


@pytest.fixture(scope="session")
def shots(repo_root) -> Path:
    """Where screenshots are kept."""
    folder = repo_root / "build" / "web"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")  # Playwright keeps an event loop in its thread, where other tests want their own
def browser(picture, tmp_path_factory) -> Iterator[Browser]:
    """Chromium without a window; its camera sees `picture` all the time."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium): the page was not tried in a browser")
    film = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    film.write_bytes(picture.read_bytes() * 2)
    camera = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            # Containers and root have no sandbox; every page here is our own.
            args=["--no-sandbox", *camera, f"--use-file-for-fake-video-capture={film}"],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, gateway) -> Iterator[Callable[..., Page]]:
    """Open the page; afterwards nothing may have been complained of, and nothing asked of anybody else."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    elsewhere: list[str] = []

    def open_page(address: str = gateway, device: str = "desktop", *, ready: bool = True, **wishes: str) -> Page:
        context = browser.new_context(**DEVICES[device], **wishes)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("request", lambda request: request.url.startswith((address, "blob:")) or elsewhere.append(request.url))
        page.goto(address)
        if ready:
            page.wait_for_selector("#server[data-state=up]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [text for text in complaints if not REFUSED.match(text)]
    assert not elsewhere


@pytest.fixture
def visited(visit, picture) -> Page:
    """The page with `picture` on its stage."""
    page = visit()
    give(page, picture)
    return page


def give(page: Page, *files) -> None:
    """Choose files, as a person does, and wait until the first one on the stage is done."""
    page.set_input_files("input[type=file] >> visible=true", [str(file) for file in files])
    if len(files) == 1:
        page.wait_for_selector("#stage[data-status=done] img.ready")


def rows(page: Page) -> list[tuple[str, str]]:
    """Class and score of the instances that the list shows."""
    shown = page.locator("#instances li:visible")
    return list(zip(shown.locator(".class").all_inner_texts(), shown.locator(".score").all_inner_texts(), strict=True))


def saved(page: Page, button: str) -> tuple[bytes, str]:
    """The bytes and the name of what a button downloads."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_bytes(), download.value.suggested_filename


def pixels(png: bytes) -> np.ndarray:
    """RGB of an encoded picture, as stored."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
