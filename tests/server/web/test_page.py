"""What people do on the page, in Chromium, in front of the real server."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect
from pycocotools.coco import COCO

from sparseinst_client import Client
from sparseinst_runtime.decode import decode

from .conftest import MAX_BYTES, give, running_gateway
from .test_gateway import free_port

THRESHOLD = 0.3  # the bundled model's own


def rows(page):
    """Class and score of the instances that the list shows."""
    shown = page.locator("#instances li:visible")
    return list(zip(shown.locator(".class").all_inner_texts(), shown.locator(".score").all_inner_texts(), strict=True))


def wanted(expected, threshold=THRESHOLD):
    return [(name, f"{score:.2f}") for name, score, _ in expected if round(score, 4) > threshold]


def saved(page, button):
    """The bytes and the name of what a button downloads."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_bytes(), download.value.suggested_filename


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def smallest_at(expected, y, x):
    """Index of the instance that the page brings out at a pixel."""
    areas = {i: mask.sum() for i, (_, score, mask) in enumerate(expected) if score > THRESHOLD and mask[y, x]}
    return min(areas, key=areas.get)


def point_at(page, expected, index):
    """Move the pointer to the middle of an instance, and give that pixel."""
    mask = expected[index][2]
    ys, xs = np.nonzero(mask)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    y, x = int(ys[middle]), int(xs[middle])
    box = page.locator("#stage canvas").bounding_box()
    height, width = mask.shape
    page.mouse.move(box["x"] + (x + 0.5) / width * box["width"], box["y"] + (y + 0.5) / height * box["height"])
    return y, x


def test_a_chosen_picture_shows_what_the_client_finds(visited, expected, shots):
    assert rows(visited) == wanted(expected)
    assert len(wanted(expected)) >= 2  # or this proves little
    assert "instances found" in visited.inner_text("#said")
    assert re.fullmatch(r"[\d.]+ ms", visited.inner_text("#time-server"))
    assert float(visited.inner_text("#time-round").split()[0]) >= float(visited.inner_text("#time-server").split()[0])
    visited.screenshot(path=shots / "stage_desktop_light.png")


def test_pointing_at_an_instance_says_what_it_is(visited, expected, shots):
    for index in range(len(wanted(expected))):
        tip = visited.locator("#stage .tip")
        for _ in range(6):  # the page may still be laying itself out while the pointer is on its way
            place = point_at(visited, expected, index)
            visited.wait_for_timeout(500)
            if tip.is_visible():
                break
            visited.mouse.move(2, 2)
        tip.wait_for()
        name, score, mask = expected[smallest_at(expected, *place)]
        assert tip.locator("b").inner_text() == name
        assert f"score {score:.2f}" in tip.inner_text()
        assert f"{mask.sum():,} px" in tip.inner_text()
    visited.screenshot(path=shots / "hover_desktop_light.png")
    visited.mouse.move(2, 2)
    tip.wait_for(state="hidden")


def test_the_slider_hides_instances_without_another_request(visited, expected):
    requests = []
    visited.on("request", lambda request: requests.append(request.url))
    slider = visited.locator("#threshold")
    for threshold in (0.05, 0.5, 0.9, 0.3):
        slider.fill(str(threshold))
        assert rows(visited) == wanted(expected, threshold)
    slider.fill("0.6")
    visited.click("#default")
    assert rows(visited) == wanted(expected)
    assert requests == []


def test_the_png_is_the_picture_outside_masks_and_painted_inside(visited, expected, picture):
    visited.uncheck("#labels")
    visited.uncheck("#outlines")
    png, name = saved(visited, "#save-png")
    assert name == "scene_03.masks.png"
    got, original = pixels(png).astype(int), decode(picture.read_bytes()).astype(int)
    covered = np.any([mask for _, score, mask in expected if score > THRESHOLD], axis=0)
    assert got.shape == original.shape
    difference = np.abs(got - original).max(axis=2)
    rim = covered ^ np.pad(covered, 1)[:-2, 1:-1] | covered ^ np.pad(covered, 1)[2:, 1:-1]
    rim |= covered ^ np.pad(covered, 1)[1:-1, :-2] | covered ^ np.pad(covered, 1)[1:-1, 2:]
    assert np.percentile(difference[~covered & ~rim], 99) <= 2  # two decoders of JPEG
    assert np.mean(difference[covered & ~rim] > 2) > 0.95


def test_the_coco_file_holds_the_masks_of_the_server(visited, expected, tmp_path):
    data, name = saved(visited, "#save-coco")
    assert name == "scene_03.coco.json"
    file = tmp_path / name
    file.write_bytes(data)
    coco = COCO(file)
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == len(wanted(expected))
    for annotation, (cls, score, mask) in zip(annotations, expected, strict=False):
        assert np.array_equal(coco.annToMask(annotation), mask)
        assert coco.loadCats(annotation["category_id"])[0]["name"] == cls
        assert annotation["score"] == pytest.approx(score, abs=1e-4)
        assert annotation["area"] == mask.sum()
    assert coco.loadRes(json.loads(data)["annotations"]).getAnnIds()


def test_a_batch_is_worked_through_and_a_bad_file_fails_alone(visit, scenes, server, shots, tmp_path):
    broken = tmp_path / "notes.jpg"
    broken.write_text("no picture")
    files = sorted((scenes / "images").glob("*.jpg"))[:6]
    page = visit()
    give(page, *files[:3], broken, *files[3:])
    page.wait_for_selector("#grid li:nth-child(7):not([data-status=waiting]):not([data-status=working])")
    page.wait_for_selector("#progress", state="hidden")
    cards = page.locator("#grid li")
    assert cards.locator(".name").all_inner_texts() == [f.name for f in (*files[:3], broken, *files[3:])]
    with Client(server.grpc_url) as client:
        counts = [len(client.segment(file)) for file in files]
    assert cards.locator(".status").all_inner_texts() == [
        *(f"{count} found" for count in counts[:3]),
        "failed",
        *(f"{count} found" for count in counts[3:]),
    ]
    assert page.locator("#grid .problem:visible").count() == 1
    assert "1 of them failed" in page.inner_text("#said")
    page.screenshot(path=shots / "batch_desktop_light.png")
    assert len(json.loads(saved(page, "#save-coco")[0])["images"]) == 6
    page.click("#grid li:nth-child(2) .open")
    assert len(rows(page)) == counts[1]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(f"Open {files[1].name}")


def test_examples_are_offered_and_dropped_files_are_taken(visit, picture):
    page = visit()
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#stage[data-status=done]")
    page.evaluate(
        """async (bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
          window.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true, bubbles: true}));
        }""",
        list(picture.read_bytes()),
    )
    page.wait_for_selector("#grid li:nth-child(2)[data-status=done]")
    assert page.locator("#grid .name").all_inner_texts() == ["scene_00.jpg", "dropped.jpg"]


def test_a_file_that_is_no_picture_is_explained(visit, tmp_path, shots):
    page = visit()
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#welcome input", tmp_path / "notes.txt")
    page.wait_for_selector("#failure >> visible=true")
    assert "cannot be read as a picture" in page.inner_text("#failure h2")
    assert "wanted JPEG" in page.inner_text("#failure p")
    page.screenshot(path=shots / "not_a_picture_desktop_light.png")


def test_a_file_that_is_too_large_is_not_even_sent(visit, tmp_path, picture):
    page = visit()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    large = tmp_path / "large.jpg"
    large.write_bytes(picture.read_bytes() + bytes(MAX_BYTES))
    page.set_input_files("#welcome input", large)
    page.wait_for_selector("#failure >> visible=true")
    assert "too large" in page.inner_text("#failure h2")
    assert "1 MB" in page.inner_text("#failure p")
    assert not [url for url in requests if "api/segment" in url]


def test_a_server_that_is_down_is_said_and_pictures_can_be_tried_again(visit, picture, shots):
    with running_gateway(f"grpc://127.0.0.1:{free_port()}") as address:
        page = visit(address, ready=False)
        page.wait_for_selector("#alert >> visible=true")
        assert "cannot be reached" in page.inner_text("#alert p")
        page.set_input_files("#welcome input", picture)
        page.wait_for_selector("#failure >> visible=true")
        assert "server is down" in page.inner_text("#failure h2")
        assert page.locator("#failure button").is_visible()
        page.screenshot(path=shots / "server_down_desktop_light.png")


def test_everything_can_be_done_with_the_keyboard_alone(visit, picture, expected):
    page = visit()

    def tab_to(selector):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"Tab never came to {selector}")

    page.wait_for_load_state("networkidle")  # a key that comes while the page still loads may be lost
    tab_to("#welcome input")
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # noqa: PLW0108 - Playwright takes no built-in
    for _ in range(5):  # a busy Chromium now and then drops a key
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        if choosers:
            break
    assert choosers, "Enter opens no file chooser"
    choosers[0].set_files(picture)
    page.wait_for_selector("#stage[data-status=done]")
    tab_to("#threshold")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#threshold-value") == "0.31"
    page.keyboard.press("ArrowLeft")
    tab_to("#labels")
    page.keyboard.press("Space")
    assert not page.is_checked("#labels")
    tab_to("#instances button")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#instances .chosen .class") == expected[1][0]
    assert page.inner_text("#stage .tip b") == expected[1][0]
    page.keyboard.press("Enter")
    assert page.locator("#instances [aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#instances [aria-pressed=true]").count() == 0
    tab_to("#save-coco")
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_picture_on_its_side_is_shown_as_its_masks_are(visit, picture, tmp_path, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{file_format.lower()}"
    Image.open(picture).resize((320, 240)).save(file, file_format, exif=exif)
    upright = decode(file.read_bytes()).astype(int)
    page = visit()
    give(page, file)
    page.locator("#threshold").fill("1")  # nothing is painted
    png, _ = saved(page, "#save-png")
    assert pixels(png).shape == upright.shape
    assert np.abs(pixels(png) - upright).mean() < 1
    shown = page.evaluate("(({naturalWidth: w, naturalHeight: h}) => [h, w])(document.querySelector('#stage img'))")
    assert tuple(shown) == upright.shape[:2]


def test_the_camera_shows_masks_live_and_takes_a_picture(visit, expected, shots):
    page = visit()
    page.click("#welcome .open-camera")
    expect(page.locator("#camera .words")).to_contain_text(re.compile("[1-9] found"))
    page.screenshot(path=shots / "camera_desktop_light.png")
    page.click("#camera .shutter")
    page.wait_for_selector("#stage[data-status=done]")
    assert page.locator("#camera").is_hidden()
    assert {name for name, _ in rows(page)} & {name for name, _ in wanted(expected)}


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("desktop", "light"),
        ("phone", "dark"),
        pytest.param("desktop", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_in_any_view(visit, picture, scenes, size, scheme, shots, tmp_path):
    def check(view):
        page.wait_for_timeout(250)  # transitions end: axe judges colours as they are drawn
        page.screenshot(path=shots / f"{view}_{size}_{scheme}.png")
        found = axe.run(page).response["violations"]
        assert not [(view, one["id"], [node["html"] for node in one["nodes"]]) for one in found]

    axe, page = Axe(), visit(size=size, scheme=scheme)
    check("welcome")
    give(page, picture)
    page.click("#instances button >> nth=0")
    check("stage")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("input[type=file] >> visible=true", [tmp_path / "notes.txt", scenes / "images/scene_00.jpg"])
    page.wait_for_selector("#progress", state="hidden")
    check("batch")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.click("#grid li:nth-child(2) .open")
    check("failure")
