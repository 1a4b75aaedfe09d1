"""Bad requests are answered in words, fail alone, and tell nothing of the server's insides; over gRPC and HTTP."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from sparseinst_client import BadRequest, Client
from sparseinst_client.transport import connect

MODEL = "sparseinst"


@pytest.fixture(scope="module")
def transport(url):
    transport = connect(url)
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def good(scenes):
    return (scenes / "images" / "scene_00.jpg").read_bytes()


@pytest.fixture(autouse=True)
def the_server_still_answers(client, good):
    yield
    assert client.segment(good).image_size == (480, 640)


def bytes_tensor(*values):
    return np.array(values, dtype=np.object_)[:, None]


def png_header(width, height):
    """The first chunks of a PNG whose header is sound; the pixels would follow."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"\0" * 1000))
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def jpeg_header(width, height):
    """The start of a JPEG that announces a size."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes((1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1))
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\x00\x0c\x03" + b"\0" * 64


def refusal(transport, inputs, model=MODEL):
    """The sentence of the refusal, which holds no path, no traceback and no file of ours."""
    with pytest.raises(BadRequest) as refused:
        transport.infer(model, inputs, 30)
    sentence = str(refused.value)
    assert sentence
    for inside in ("/", "Traceback", ".py", "Error", "\n"):
        assert inside not in sentence
    return sentence


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"", "empty"),
        (b"this is not an image", "JPEG or PNG or WEBP"),
        (b"GIF89a" + b"\0" * 100, "JPEG or PNG or WEBP"),
        (b"\xff\xd8\xff", "header"),
        (png_header(40_000, 40_000), "40000 x 40000"),
        (jpeg_header(40_000, 40_000), "40000 x 40000"),
        (png_header(16_000, 16_000), "16000 x 16000"),
        (png_header(100, 100), "cut off or corrupt"),
    ],
    ids=["empty", "text", "gif", "jpeg signature", "huge png", "huge jpeg", "many pixels", "png without pixels"],
)
def test_what_is_no_picture_is_refused_in_words(transport, client, picture, said):
    assert said in refusal(transport, {"image": bytes_tensor(picture)})
    with pytest.raises(BadRequest, match=said):
        client.segment(picture)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_jpeg_is_refused_in_words(transport, good, kept):
    sentence = refusal(transport, {"image": bytes_tensor(good[: int(len(good) * kept)])})
    assert "cut off" in sentence


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1, 1.1])
def test_thresholds_that_make_no_sense_are_refused(transport, good, threshold):
    inputs = {"image": bytes_tensor(good), "score_threshold": np.array([[threshold]], np.float32)}
    sentence = refusal(transport, inputs)
    assert "score_threshold" in sentence
    assert "[0, 1]" in sentence


@pytest.mark.parametrize("most", [0, -1, -(2**31)])
def test_a_number_of_instances_below_one_is_refused(transport, good, most):
    inputs = {"image": bytes_tensor(good), "max_instances": np.array([[most]], np.int32)}
    assert "max_instances" in refusal(transport, inputs)


def test_a_missing_picture_is_refused(transport):
    assert "image" in refusal(transport, {"score_threshold": np.array([[0.5]], np.float32)})
    refusal(transport, {})  # in Triton's words


def test_an_unknown_input_is_refused_by_its_name(transport, good):
    assert "colour" in refusal(transport, {"image": bytes_tensor(good), "colour": np.zeros((1, 1), np.float32)})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("image", np.zeros((1, 1), np.float32)),
        ("image", np.zeros((1, 480, 640, 3), np.uint8)),
        ("score_threshold", np.array([[0.5]], np.float64)),
        ("score_threshold", np.array([[0.5, 0.5]], np.float32)),
        ("max_instances", np.array([[5]], np.int64)),
    ],
)
def test_another_dtype_or_shape_is_refused_by_its_name(transport, good, name, tensor):
    assert name in refusal(transport, {"image": bytes_tensor(good), name: tensor})


def test_two_values_where_one_belongs_are_refused(transport, good):
    refusal(transport, {"image": np.array([[good, good]], np.object_)})


def test_more_pictures_than_the_model_takes_are_refused(transport, client, good):
    refusal(transport, {"image": bytes_tensor(*[good] * (client.contract().max_batch_size + 1))})


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_picture_in_a_batch_says_which(transport, client, good, bad):
    batch = [good, good, good]
    batch[bad] = b"this is not an image"
    assert f"picture {bad + 1} of 3" in refusal(transport, {"image": bytes_tensor(*batch)})
    with pytest.raises(BadRequest, match=f"picture {bad + 1} of 3"):
        client.segment_batch(batch)


def test_a_bad_option_in_a_batch_says_which(transport, good):
    thresholds = np.array([[0.5], [np.nan]], np.float32)
    assert "picture 2 of 2" in refusal(transport, {"image": bytes_tensor(good, good), "score_threshold": thresholds})


def test_a_bad_request_fails_alone(server, good):
    """Sent together with good ones, so that the server batches them."""
    from concurrent.futures import ThreadPoolExecutor

    with Client(server.grpc_url) as client, ThreadPoolExecutor(8) as pool:
        client.contract()
        futures = [pool.submit(client.segment, good if index % 2 else b"bad") for index in range(16)]
        for index, future in enumerate(futures):
            if index % 2:
                assert future.result().image_size == (480, 640)
            else:
                assert isinstance(future.exception(), BadRequest)


@pytest.mark.parametrize("size", [(0, 640), (-1, 640), (480, 2**31 - 1), (40_000, 40_000)])
def test_pixels_with_a_picture_size_that_cannot_be_are_refused(transport, client, size):
    height, width = client.contract().input_size
    inputs = {"pixels": np.zeros((1, height, width, 3), np.uint8), "image_size": np.array([size], np.int32)}
    assert "image_size" in refusal(transport, inputs, "sparseinst_pixels")


def test_pixels_of_another_size_are_refused(transport):
    inputs = {"pixels": np.zeros((1, 8, 8, 3), np.uint8), "image_size": np.array([[8, 8]], np.int32)}
    assert "pixels" in refusal(transport, inputs, "sparseinst_pixels")
