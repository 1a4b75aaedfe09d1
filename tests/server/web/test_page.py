"""What people do on the page, in Chromium, in front of the real server."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect
from pycocotools.coco import COCO

from sparseinst_client import Client
from sparseinst_runtime.decode import decode

from .conftest import MAX_BYTES, give, pixels, rows, saved

THRESHOLD = 0.3  # the bundled model's own


def wanted(expected, threshold=THRESHOLD):
    return [(name, f"{score:.2f}") for name, score, _ in expected if round(score, 4) > threshold]


def smallest_at(expected, y, x):
    """Index of the instance that the page brings out at a pixel."""
    areas = {i: mask.sum() for i, (_, score, mask) in enumerate(expected) if score > THRESHOLD and mask[y, x]}
    return min(areas, key=areas.get)


def point_at(page, expected, index):
    """Move the pointer to the middle of an instance, and give that pixel."""
    canvas = page.locator("#stage canvas")
    canvas.hover(position={"x": 1, "y": 1})  # waits until it no longer moves
    mask = expected[index][2]
    ys, xs = np.nonzero(mask)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    y, x = int(ys[middle]), int(xs[middle])
    box, (height, width) = canvas.bounding_box(), mask.shape
    canvas.hover(position={"x": (x + 0.5) / width * box["width"], "y": (y + 0.5) / height * box["height"]})
    return y, x


def test_a_chosen_picture_shows_what_the_client_finds(visited, expected, shots):
    assert rows(visited) == wanted(expected)
    assert len(wanted(expected)) >= 2  # or this proves little
    assert "instances found" in visited.inner_text("#said")
    assert re.fullmatch(r"[\d.]+ ms", visited.inner_text("#time-server"))
    assert float(visited.inner_text("#time-round").split()[0]) >= float(visited.inner_text("#time-server").split()[0])
    visited.screenshot(path=shots / "stage_desktop_light.png")


def test_pointing_at_an_instance_says_what_it_is(visited, expected, shots):
    tip = visited.locator("#stage .tip")
    for index in range(len(wanted(expected))):
        place = point_at(visited, expected, index)
        name, score, mask = expected[smallest_at(expected, *place)]
        expect(tip.locator("b")).to_have_text(name)
        expect(tip).to_contain_text(f"score {score:.2f}")
        expect(tip).to_contain_text(f"{mask.sum():,} px")
    visited.screenshot(path=shots / "hover_desktop_light.png")
    visited.mouse.move(2, 2)
    expect(tip).to_be_hidden()


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


def choose_by_enter(page, file):
    for _ in range(4):  # now and then Playwright is not yet listening when the first chooser opens
        try:
            with page.expect_file_chooser(timeout=5000) as chooser:
                page.keyboard.press("Enter")
        except PlaywrightTimeout:
            continue
        chooser.value.set_files(file)
        return
    pytest.fail("Enter opens no file chooser")


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
    choose_by_enter(page, picture)
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


def test_the_camera_shows_masks_live_and_takes_a_picture(visit, expected, shots):
    page = visit()
    page.click("#welcome .open-camera")
    expect(page.locator("#camera .words")).to_contain_text(re.compile("[1-9] found"))
    page.screenshot(path=shots / "camera_desktop_light.png")
    page.click("#camera .shutter")
    page.wait_for_selector("#stage[data-status=done]")
    assert page.locator("#camera").is_hidden()
    assert {name for name, _ in rows(page)} & {name for name, _ in wanted(expected)}
