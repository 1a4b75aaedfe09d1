"""The page on desk and phone, by a finger, with less motion, in a system's own colours, and by axe's judgement."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from .conftest import give, saved

CHOOSE = "input[type=file] >> visible=true"
# What can be touched and is lower or narrower than a finger, and what lies beyond the sides of the screen.
SMALL = """() => [...document.querySelectorAll("button, label.button, label:has(> [type=checkbox]), [type=range]")]
  .filter((part) => part.checkVisibility())
  .map((part) => [part.outerHTML.slice(0, 80), part.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44 || box.left < 0 || box.right > innerWidth)
  .map(([html, {width, height}]) => [html, width, height])"""


def test_everything_on_a_phone_is_as_large_as_a_finger_and_within_the_screen(visit, picture, scenes, tmp_path):
    def check(view):
        assert (view, page.evaluate(SMALL)) == (view, [])
        assert (view, page.evaluate("document.documentElement.scrollWidth")) == (view, 390)

    page = visit(device="phone", reduced_motion="reduce")
    check("welcome")
    give(page, picture)
    check("stage")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files(CHOOSE, [tmp_path / "notes.txt", scenes / "images" / "scene_00.jpg"])
    page.wait_for_selector("#progress", state="hidden")
    check("batch")
    page.tap("#grid li:nth-child(2) .open")
    check("failure")
    page.tap("#work .open-camera")
    page.wait_for_selector("#camera[open]")
    check("camera")


def test_everything_can_be_done_by_touch(visit, picture, expected):
    page = visit(device="phone")
    with page.expect_file_chooser() as chooser:
        page.tap("#welcome label.button")
    chooser.value.set_files(picture)
    page.wait_for_selector("#stage[data-status=done] img.ready")
    page.tap("#instances li:nth-child(2) button")
    expect(page.locator("#stage .tip b")).to_have_text(expected[1][0])
    page.tap("#instances li:nth-child(2) button")
    expect(page.locator("#stage .tip")).to_be_hidden()
    expect(page.locator("#instances .chosen")).to_have_count(0)
    page.tap("label:has(> #labels)")
    expect(page.locator("#labels")).not_to_be_checked()
    slider = page.locator("#threshold")
    slider.tap(position={"x": slider.bounding_box()["width"] - 3, "y": 22})
    expect(page.locator("#none")).to_contain_text("Nothing above this score")
    page.tap("#default")
    expect(page.locator("#threshold-value")).to_have_text("0.30")
    page.locator("#save-png").scroll_into_view_if_needed()
    expect(page.locator("#stage")).to_be_in_viewport()  # it stays in sight
    assert saved(page, "#save-png")[0].startswith(b"\x89PNG")


@pytest.mark.parametrize("wish", ["reduce", pytest.param("no-preference", marks=pytest.mark.slow)])
def test_nothing_moves_for_those_who_do_not_want_it(visit, picture, wish):
    page = visit(reduced_motion=wish)
    page.route("**/api/segment", lambda _: None)  # never answered
    page.set_input_files(CHOOSE, picture)
    expect(page.locator("#stage .busy")).to_have_text("Segmenting")
    expect(page.locator("#stage .busy")).to_have_css("opacity", "1")
    moving = page.evaluate("document.getAnimations().filter((one) => one.effect.getTiming().iterations > 1).length")
    assert moving == (0 if wish == "reduce" else 1)
    page.click("#clear")
    if wish == "reduce":
        assert page.evaluate("document.getAnimations().length") == 0


def test_colours_that_mean_something_outlive_a_systems_own(visit, picture, shots):
    page = visit(forced_colors="active")
    give(page, picture)
    page.click("#instances button >> nth=1")
    colours = page.locator("#instances li:visible .number").evaluate_all(
        "(numbers) => numbers.map((number) => getComputedStyle(number).backgroundColor)"
    )
    assert colours[:2] == ["rgb(230, 159, 0)", "rgb(86, 180, 233)"]  # the first two of the palette
    marks = page.locator("#ruler i").evaluate_all("(all) => all.map((mark) => getComputedStyle(mark).backgroundColor)")
    assert marks[:2] == colours[:2]
    chosen = page.locator("#instances [aria-pressed=true]")
    assert chosen.evaluate("(button) => getComputedStyle(button).outlineStyle") == "solid"
    lamp, ground = page.evaluate(
        "['.lamp', 'body'].map((name) => getComputedStyle(document.querySelector(name)).backgroundColor)"
    )
    assert lamp != ground
    page.screenshot(path=shots / "stage_forced_colours.png")


def test_the_focus_is_seen_on_whatever_tab_comes_to(visit, picture):
    page = visit()
    give(page, picture)
    seen = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        name, width = page.evaluate(
            """() => {
              const part = document.activeElement;
              const shown = part.closest("label:has(:focus-visible)") ?? part;
              const {outlineStyle, outlineWidth} = getComputedStyle(shown);
              const width = outlineStyle === "solid" ? parseFloat(outlineWidth) : 0;
              return [part.id || part.className || part.tagName, width];
            }"""
        )
        seen.add(name)
        assert name == "BODY" or width >= 2, name
    assert {"threshold", "masks", "save-png", "clear"} <= seen


@pytest.mark.parametrize(
    ("device", "scheme"),
    [
        ("desktop", "light"),
        ("phone", "dark"),
        pytest.param("desktop", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing_in_any_view(visit, picture, scenes, device, scheme, shots, tmp_path):
    def check(view):
        page.screenshot(path=shots / f"{view}_{device}_{scheme}.png")
        found = axe.run(page).response["violations"]
        assert not [(view, one["id"], [node["html"] for node in one["nodes"]]) for one in found]

    # Axe judges colours as they are drawn: nothing is on its way from one to another.
    axe, page = Axe(), visit(device=device, color_scheme=scheme, reduced_motion="reduce")
    check("welcome")
    give(page, picture)
    page.click("#instances button >> nth=0")
    expect(page.locator("#stage .tip")).to_be_visible()
    check("stage")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files(CHOOSE, [tmp_path / "notes.txt", scenes / "images/scene_00.jpg"])
    page.wait_for_selector("#progress", state="hidden")
    check("batch")
    page.click("#grid li:nth-child(2) .open")
    expect(page.locator("#failure")).to_be_visible()
    check("failure")
