"""Every way of the client through a real Triton gives what one plain call gives: threads, streams, asyncio, copies."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest
from under_load import same

from sparseinst_client import AsyncClient, BadRequest, Client, DeadlineExceeded, NotServed, SharedMemoryRefused
from sparseinst_runtime.instances import Instances


@pytest.fixture(scope="module")
def pictures(expected):
    return list(expected)


def test_threads_share_a_client(url, expected, pictures):
    with Client(url, concurrency=3) as client, ThreadPoolExecutor(8) as pool:
        for picture, found in zip(pictures * 4, pool.map(client.segment, pictures * 4), strict=True):
            assert same(found, expected[picture])


def test_a_stream_gives_results_in_order_and_takes_no_more_than_it_needs(url, expected, pictures):
    taken, results = [], 0

    def source():
        for number in range(12):
            taken.append(number)
            yield pictures[number % len(pictures)]

    with Client(url) as client:
        for found in client.stream(source(), in_flight=4):
            assert same(found, expected[pictures[results % len(pictures)]])
            results += 1
            assert len(taken) <= results + 3
    assert results == 12


def test_a_bad_picture_takes_its_own_place_in_a_stream_and_no_other(client, expected, pictures, tmp_path):
    mixed = [pictures[0], b"no picture", pictures[1], tmp_path / "missing.jpg", pictures[2]]
    outcomes = list(client.stream(mixed, in_flight=2, on_error="yield"))
    assert [type(outcome) for outcome in outcomes] == [Instances, BadRequest, Instances, FileNotFoundError, Instances]
    for picture, found in zip(pictures, outcomes[::2], strict=True):
        assert same(found, expected[picture])


def test_a_stream_that_raises_has_given_what_came_before(client, pictures):
    stream = client.stream([pictures[0], b"no picture", pictures[1]], in_flight=3)
    assert isinstance(next(stream), Instances)
    with pytest.raises(BadRequest, match="starts with"):
        next(stream)
    assert next(stream, None) is None


def test_a_source_that_breaks_ends_the_stream_after_what_it_gave(client, pictures):
    def source():
        yield from pictures
        raise ConnectionResetError("the camera is gone")

    stream = client.stream(source(), in_flight=2, on_error="yield")
    assert all(isinstance(next(stream), Instances) for _ in pictures)
    with pytest.raises(ConnectionResetError, match="camera"):
        next(stream)


def test_a_stream_that_is_left_leaves_no_thread(client, pictures):
    for _ in client.stream(pictures * 10, in_flight=4):
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparseinst-stream")]


def test_asyncio_gives_the_same(url, expected, pictures):
    async def work():
        async with AsyncClient(url, concurrency=4) as client:
            assert await client.ready()
            assert (await client.health()).answers
            found = await asyncio.gather(*(client.segment(picture) for picture in pictures * 2))
            batch = await client.segment_batch(pictures)
            streamed = [each async for each in client.stream(pictures * 2, in_flight=4)]
            assert client.classes == (await client.contract()).classes
            return found, batch, streamed

    found, batch, streamed = asyncio.run(work())
    for results in (found, batch, streamed):
        for number, each in enumerate(results):
            assert same(each, expected[pictures[number % len(pictures)]])


def test_an_asynchronous_source_is_taken_no_faster_than_results_are(url, expected, pictures):
    taken = 0

    async def source():
        nonlocal taken
        for number in range(12):
            taken += 1
            yield b"no picture" if number == 5 else pictures[number % len(pictures)]

    async def work():
        results = []
        async with AsyncClient(url) as client:
            async for found in client.stream(source(), in_flight=3, on_error="yield"):
                results.append(found)
                assert taken <= len(results) + 2
        return results

    results = asyncio.run(work())
    assert isinstance(results.pop(5), BadRequest)
    assert len(results) == 11
    assert same(results[5], expected[pictures[6 % len(pictures)]])


def test_cancelling_a_task_ends_its_call_and_no_other(url, expected, pictures):
    async def work():
        async with AsyncClient(url) as client:
            await client.contract()
            tasks = [asyncio.ensure_future(client.segment(picture)) for picture in pictures * 4]
            await asyncio.sleep(0.01)
            for task in tasks[1:]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert same(outcomes[0], expected[pictures[0]])
            assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            async with aclosing(client.stream(pictures * 10, in_flight=4)) as stream:
                async for _ in stream:
                    break
            assert len(asyncio.all_tasks()) == 1  # this one
            return await client.segment(pictures[1])

    assert same(asyncio.run(work()), expected[pictures[1]])


def test_asyncio_keeps_deadlines_and_says_what_is_wrong(url, pictures):
    async def work():
        async with AsyncClient(url) as client:
            with pytest.raises(DeadlineExceeded):
                await client.segment(pictures[0], timeout=1e-3)
            with pytest.raises(BadRequest):
                await client.segment(b"no picture")
            with pytest.raises(RuntimeError, match="contract"):
                _ = AsyncClient(url).classes
        with pytest.raises(RuntimeError, match="closed"):
            await client.segment(pictures[0])
        async with AsyncClient(url, model="unheard_of") as client:
            assert not await client.ready()
            with pytest.raises(NotServed):
                await client.segment(pictures[0])

    asyncio.run(work())


def test_an_asynchronous_client_serves_one_loop_after_the_other(url, expected, pictures):
    client = AsyncClient(url)
    for _ in range(2):
        assert same(asyncio.run(client.segment(pictures[0])), expected[pictures[0]])


def test_a_pickled_client_asks_as_the_first_did(url, expected, pictures):
    with Client(url, timeout=20, retries=2) as client:
        client.segment(pictures[0])
        with pickle.loads(pickle.dumps(client)) as copy:
            assert same(copy.segment(pictures[0]), expected[pictures[0]])
    copy = pickle.loads(pickle.dumps(AsyncClient(url)))
    assert same(asyncio.run(copy.segment(pictures[0])), expected[pictures[0]])


def test_a_server_that_keeps_shared_memory_shut_is_said_in_words(url, pictures):
    with Client(url, shared_memory=True) as client, pytest.raises(SharedMemoryRefused, match="leave shared_memory out"):
        client.segment(pictures[0])


def test_arrays_of_any_layout_travel(client):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert client.segment(image[::2, ::-1]).image_size == (30, 80)
