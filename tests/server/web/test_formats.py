"""Pictures as phones, scanners and printers make them: shown as the masks lie, or refused in plain words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sparseinst_client import Client
from sparseinst_runtime.decode import decode
from sparseinst_web import create_app

from .conftest import give, pixels, rows, saved

UPRIGHT = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.fixture(scope="module")
def ask(settings):
    with TestClient(create_app(settings)) as client:
        yield client


def encoded(picture, file_format, **options):
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def unusual(scene):
    """The scene in encodings that are rarely met, by name."""
    scene = scene.resize((256, 256))
    clear = scene.convert("RGBA")
    clear.putalpha(scene.convert("L"))
    deep = np.asarray(scene.convert("L")).astype(np.uint16) * 257
    return {
        "transparent.png": encoded(clear, "PNG"),
        "palette.png": encoded(scene.quantize(64), "PNG"),
        "grey.png": encoded(Image.fromarray(deep), "PNG"),
        "cmyk.jpg": encoded(scene.convert("CMYK"), "JPEG"),
        "progressive.jpg": encoded(scene, "JPEG", progressive=True),
        "clear.webp": encoded(clear, "WEBP"),
    }


def test_unusual_encodings_are_shown_with_what_the_client_finds(visit, server, picture, tmp_path):
    files = unusual(Image.open(picture))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    page = visit()
    give(page, *(tmp_path / name for name in files))
    page.wait_for_selector("#progress", state="hidden")
    with Client(server.grpc_url) as client:
        counts = [len(client.segment(data)) for data in files.values()]
    assert page.locator("#grid .status").all_inner_texts() == [f"{count} found" for count in counts]
    assert sum(counts) > len(counts)  # or this proves little
    assert page.locator("#grid canvas").evaluate_all("(all) => all.map(({width, height}) => [width, height])") == [
        [256, 256] for _ in files
    ]


@pytest.mark.parametrize(
    ("file_format", "data"),
    [
        ("GIF", None),
        ("BMP", None),
        ("TIFF", None),
        ("AVIF", b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf"),
        ("HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"),
    ],
)
def test_other_formats_are_refused_by_their_name(ask, picture, file_format, data):
    reply = ask.post("/api/segment", content=data or encoded(Image.open(picture), file_format))
    assert reply.status_code == 400
    article = "an" if file_format == "AVIF" else "a"
    assert reply.json()["error"]["message"] == (
        f"got {article} {file_format} picture; wanted JPEG or PNG or WEBP; convert the picture to one of these"
    )


@pytest.mark.parametrize(
    ("file_format", "orientation"),
    [
        ("JPEG", 6),
        pytest.param("PNG", 6, marks=pytest.mark.slow),
        ("WEBP", 6),
        pytest.param("JPEG", 3, marks=pytest.mark.slow),
        pytest.param("JPEG", 8, marks=pytest.mark.slow),
        pytest.param("WEBP", 8, marks=pytest.mark.slow),
    ],
)
def test_the_masks_of_a_picture_on_its_side_lie_on_it_as_it_is_shown(
    visit, server, picture, tmp_path, file_format, orientation
):
    scene = Image.open(picture).resize((320, 240))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"turned.{file_format.lower()}"
    scene.transpose(UPRIGHT[orientation]).save(file, file_format, exif=exif)
    upright = decode(file.read_bytes()).astype(int)
    assert upright.shape == (240, 320, 3)
    with Client(server.grpc_url) as client:
        found = client.segment(file)
    assert len(found) >= 2  # or this proves little
    page = visit()
    give(page, file)
    assert len(rows(page)) == len(found)
    shown = page.evaluate("(({naturalWidth: w, naturalHeight: h}) => [h, w])(document.querySelector('#stage img'))")
    assert tuple(shown) == upright.shape[:2]
    assert page.locator("#stage img").bounding_box() == page.locator("#stage canvas").bounding_box()
    for switch in ("#labels", "#outlines"):
        page.uncheck(switch)
    painted = pixels(saved(page, "#save-png")[0]).astype(int)
    page.uncheck("#masks")
    plain = pixels(saved(page, "#save-png")[0]).astype(int)
    assert np.abs(plain - upright).mean() < 1
    changed = np.abs(painted - plain).max(axis=2) > 2
    covered = found.masks().any(axis=0)
    assert np.mean(changed == covered) > 0.97  # the rims are blended
