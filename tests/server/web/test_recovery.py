"""The server goes away while the page is open, and comes back: the page says so and goes on, without a reload."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from sparseinst_export.repository import assemble
from sparseinst_server import TritonServer

from .conftest import give, running_gateway
from .road import road_to

CHOOSE = "input[type=file] >> visible=true"


@pytest.fixture(scope="module")
def way(server):
    """A road to the server, and the address of a gateway at its near end."""
    with road_to(server.grpc_url) as road, running_gateway(road.url) as address:
        yield road, address


@pytest.fixture
def road(way):
    road, _ = way
    road.close()
    return road


@pytest.fixture
def address(way):
    return way[1]


def ask_until(page, condition):
    """Have the page ask until something holds: gRPC rests for half a second from an attempt that failed."""
    page.wait_for_function(f"() => {{ dispatchEvent(new Event('online')); return {condition}; }}", polling=100)


def test_the_page_waits_for_a_server_that_starts_later(visit, road, address, picture, expected, shots):
    page = visit(address, ready=False)
    expect(page.locator("#alert p")).to_have_text(
        "The inference server cannot be reached. This page keeps asking, and goes on by itself."
    )
    page.screenshot(path=shots / "server_down_desktop_light.png")
    page.set_input_files(CHOOSE, picture)
    expect(page.locator("#failure h2")).to_have_text("The server is down")
    expect(page.locator("#failure button")).to_be_visible()
    page.screenshot(path=shots / "server_down_picture_desktop_light.png")
    road.open()
    page.wait_for_selector("#stage[data-status=done] img.ready")
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator("#server")).to_have_text("Server ready")
    expect(page.locator("#instances li:visible .class").first).to_have_text(expected[0][0])


def test_what_was_set_and_found_outlives_the_server(visit, road, address, picture, scenes):
    road.open()
    page = visit(address)
    give(page, picture)
    page.locator("#threshold").fill("0.5")
    road.close()
    page.set_input_files(CHOOSE, scenes / "images" / "scene_00.jpg")
    expect(page.locator("#server")).to_have_text("Server not reachable")
    expect(page.locator("#grid li:nth-child(2)")).to_have_attribute("data-status", "failed")
    expect(page.locator("#grid li:nth-child(1)")).to_have_attribute("data-status", "done")
    road.open()
    ask_until(page, "document.querySelector('#server').dataset.state === 'up'")
    expect(page.locator("#grid li:nth-child(2)")).to_have_attribute("data-status", "done")
    expect(page.locator("#server")).to_have_text("Server ready")
    expect(page.locator("#threshold-value")).to_have_text("0.50")


def test_a_server_that_goes_is_noticed_while_nobody_asks(visit, road):
    road.open()
    with running_gateway(road.url) as address:
        page = visit(address)
        page.clock.install()
        page.reload()
        page.wait_for_selector("#server[data-state=up]")
        road.close()
        page.clock.fast_forward("16")
        expect(page.locator("#server")).to_have_text("Server not reachable")
        road.open()
        ask_until(page, "document.querySelector('#server').dataset.state === 'up'")
        expect(page.locator("#server")).to_have_text("Server ready")
    page.clock.fast_forward("16")
    expect(page.locator("#alert p")).to_contain_text("gateway that serves this page cannot be reached")


def test_a_picture_that_the_server_dies_of_is_tried_again_once_only(visit, picture):
    page, asked = visit(), []

    def die(route):  # what a browser gets whose picture ends the server, which comes back at once
        asked.append(route.request.url)
        error = {"code": "server_unavailable", "message": "the inference server cannot be reached"}
        route.fulfill(status=502, body=json.dumps({"error": error}))

    page.route("**/api/segment", die)
    with page.expect_response(lambda reply: reply.url.endswith("/api/segment") and len(asked) == 2):
        page.set_input_files(CHOOSE, picture)
    # The server is there, and says so more than once.
    ask_until(page, "performance.getEntriesByName(new URL('api/model', location).href).length > 5")
    expect(page.locator("#failure button")).to_be_visible()
    assert len(asked) == 2


@pytest.mark.slow
def test_a_server_that_comes_back_with_another_model_is_met_anew(
    visit, repo_root, bundled_model, repository, serve_python, picture, tmp_path
):
    contract = json.loads((bundled_model / "contract.json").read_text())
    (tmp_path / "contract.json").write_text(json.dumps(contract | {"name": "renamed", "score_threshold": 0.4}))
    other = assemble(
        template=repo_root / "model_repository",
        onnx=bundled_model / "model.onnx",
        contract=tmp_path / "contract.json",
        out=tmp_path / "model_repository",
    )
    first = TritonServer(repository, python=serve_python)
    with first, running_gateway(first.grpc_url) as address:
        page = visit(address)
        give(page, picture)
        first.stop()
        page.evaluate("dispatchEvent(new Event('online'))")
        expect(page.locator("#alert button")).to_have_text("Ask now")
        port = int(first.grpc_url.rpartition(":")[2])
        with TritonServer(other, python=serve_python, grpc_port=port):
            page.wait_for_selector("#server[data-state=up]", timeout=60_000)
            expect(page.locator("#name")).to_have_text("renamed")
            expect(page.locator("#threshold-value")).to_have_text("0.40")
            reply = page.request.post(f"{address}/api/segment", data=picture.read_bytes())
            assert reply.json()["model"] == "renamed"
