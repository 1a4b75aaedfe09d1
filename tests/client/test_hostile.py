"""A server that lies costs its client a clear error, no more memory than a reply may take, no more time than given."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import hostile
import numpy as np
import pytest
from under_load import wait_until

from sparseinst_client import (
    AsyncClient,
    BadRequest,
    Client,
    DeadlineExceeded,
    Overloaded,
    ReplyError,
    ServerUnavailable,
    SparseInstError,
)
from sparseinst_client.wire import MAX_REPLY

PICTURE = np.full((32, 32, 3), 128, np.uint8)
BOUND = 4 * MAX_REPLY  # as it came, parsed, and copies of it on the way


@contextmanager
def bounded_memory():
    """Fails where this process took more than the bound in the block, at any moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    yield
    assert _resident("VmHWM") - before < BOUND


def _resident(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def lied_to(url, model, timeout=20.0) -> SparseInstError:
    """The error of a client that asks."""
    with Client(url, model=model, retries=0) as client, bounded_memory(), pytest.raises(SparseInstError) as raised:
        client.segment(PICTURE, timeout=timeout)
    assert len(str(raised.value)) < 4000
    return raised.value


def lied_to_async(url, model, timeout=20.0) -> SparseInstError:
    """The error of the other client."""

    async def work():
        async with AsyncClient(url, model=model, retries=0) as client:
            await client.segment(PICTURE, timeout=timeout)

    with bounded_memory(), pytest.raises(SparseInstError) as raised:
        asyncio.run(work())
    return raised.value


def test_the_attacker_can_be_honest(url):
    with Client(url, model="honest") as client:
        found = client.segment(PICTURE)
    assert found.masks().all()
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize("lie", hostile.LIES)
def test_tensors_that_lie_are_said_and_cost_nothing(url, lie):
    assert type(lied_to(url, lie)) is ReplyError


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("no_contract", "holds no contract"),
        ("a_contract_of_another_version", "version is 2; wanted 1"),
        ("a_contract_that_is_no_json", "is not JSON"),
        ("a_contract_that_nests", ""),
        ("masks_that_are_pixels", r"output masks is UINT8 \[-1, 80, 80\]; wanted STRING \[-1\]"),
        ("boxes_of_five", r"output boxes is FP32 \[-1, 5\]; wanted FP32 \[-1, 4\]"),
        ("no_threshold", "input score_threshold is missing"),
        ("a_smaller_batch", "max_batch_size is 4; its contract has 8"),
        ("a_huge_configuration", "bytes"),
    ],
)
def test_a_model_that_is_not_ours_is_said_plainly(url, lie, said):
    error = lied_to(url, lie)
    assert type(error) is ReplyError
    assert re.search(said, str(error))


BOMBS = {
    "grpc": [
        "a_huge_reply",
        "garbage",
        "a_bomb_of_descriptions",
        "a_bomb_in_a_description",
        "a_bomb_of_contents",
        "contents_of_nothing",
        "compressed",
    ],
    "http": [
        "a_huge_reply",
        "a_huge_refusal",
        "a_reply_without_end",
        "headers_without_end",
        "garbage",
        "a_header_longer_than_the_reply",
        "a_bomb_of_descriptions",
        "a_description_that_nests",
        "compressed",
    ],
}


@pytest.mark.parametrize(("scheme", "bomb"), [(scheme, bomb) for scheme in BOMBS for bomb in BOMBS[scheme]])
def test_what_is_no_reply_is_said_and_costs_no_more_than_one(urls, scheme, bomb):
    assert type(lied_to(urls[scheme], bomb)) is ReplyError
    assert type(lied_to_async(urls[scheme], bomb)) is ReplyError


@pytest.mark.parametrize(("scheme", "model"), [("grpc", "hangs"), ("http", "hangs"), ("http", "drips")])
def test_deadlines_are_kept(urls, scheme, model):
    start = time.monotonic()
    assert type(lied_to(urls[scheme], model, timeout=0.3)) is DeadlineExceeded
    assert type(lied_to_async(urls[scheme], model, timeout=0.3)) is DeadlineExceeded
    assert time.monotonic() - start < 2.5  # two clients, 0.3 s each; the server would go on for 3 s


def test_leaving_in_the_middle_of_a_reply_is_worth_another_try(urls):
    assert type(lied_to(urls["http"], "leaves_in_the_middle")) is ServerUnavailable
    client = Client(urls["http"], model="leaves_in_the_middle", retries=1)
    with client, pytest.raises(ServerUnavailable, match="asked 2 times"):
        client.segment(PICTURE)


def test_a_long_speech_is_cut(url):
    assert isinstance(lied_to(url, "talks_without_end"), BadRequest)


def test_who_is_turned_away_comes_again(url):
    with Client(url, model=f"busy_2_blocking_{url[:4]}") as client:
        assert len(client.segment(PICTURE)) == 1
    with (
        Client(url, model=f"busy_2_refused_{url[:4]}", retries=1) as client,
        pytest.raises(Overloaded, match="asked 2 times"),
    ):
        client.segment(PICTURE)

    async def work():
        async with AsyncClient(url, model=f"busy_2_asynchronous_{url[:4]}") as client:
            return await client.segment(PICTURE)

    assert len(asyncio.run(work())) == 1


def test_headers_go_with_every_request_and_stay_out_of_words(url):
    secret = "Bearer of-a-secret"
    with Client(url, model="says_what_it_was_told", headers={"Authorization": secret}) as client:
        with pytest.raises(BadRequest, match=secret):
            client.segment(PICTURE)
        assert secret not in repr(client)

    async def work():
        async with AsyncClient(url, model="says_what_it_was_told", headers={"Authorization": secret}) as client:
            await client.segment(PICTURE)

    with pytest.raises(BadRequest, match=secret):
        asyncio.run(work())


def test_closing_a_client_ends_the_calls_of_other_threads(url):
    client, caught = Client(url, model="hangs", retries=9), []

    def ask():
        try:
            client.segment(PICTURE, timeout=60)
        except (SparseInstError, RuntimeError) as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert wait_until(lambda: client._slots._value < 64)
    client.close()
    thread.join(2)
    assert not thread.is_alive()
    assert len(caught) == 1


def test_closing_an_asynchronous_client_ends_its_calls(url):
    async def work():
        client = AsyncClient(url, model="hangs", retries=9)
        calls = [asyncio.ensure_future(client.segment(PICTURE, timeout=60)) for _ in range(2)]
        while client._slots.get()._value > 62:
            await asyncio.sleep(0.01)
        await client.close()
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    assert {type(outcome) for outcome in asyncio.run(work())} == {ServerUnavailable}


def test_leaving_a_stream_ends_its_calls(url):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    start = time.monotonic()
    with Client(url, model="hangs_on_noise") as client:
        for _ in client.stream([PICTURE, noise, noise, noise], in_flight=3, timeout=60):
            break
        assert len(client.segment(PICTURE)) == 1
    assert time.monotonic() - start < 30


def test_no_more_calls_than_allowed_are_under_way(url):
    with Client(url, model="hangs", concurrency=1) as client:
        stream = client.stream([PICTURE, PICTURE], in_flight=1, timeout=60, on_error="yield")
        thread = threading.Thread(target=next, args=(stream, None), daemon=True)
        thread.start()
        assert wait_until(lambda: client._slots._value == 0)
        with pytest.raises(DeadlineExceeded, match="concurrency"):
            client.segment(PICTURE, timeout=0.2)
        client.close()
        thread.join()


@pytest.fixture(scope="module")
def certificates(repo_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls") / "ours"
    script = repo_root / "deploy" / "tls" / "make_certificates.sh"
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)
    return folder


def test_https_trusts_whom_it_is_told_to(certificates):
    with hostile.attacker(certificates / "server.crt", certificates / "server.key") as urls:
        url = urls["http"].replace("http", "https")
        with Client(url, model="honest", ca=certificates / "ca.crt") as client:
            assert len(client.segment(PICTURE)) == 1
        with Client(url, model="honest", retries=0) as client, pytest.raises(ServerUnavailable, match="ertificate"):
            client.segment(PICTURE)
