"""A stub of Triton's Python backend dies or hangs: the supervisor notices and repairs, and no answer is ever wrong.

Triton 2.51 never replaces a dead stub, and goes on saying that it is ready; now and then it aborts with it.
"""

from __future__ import annotations

import time

import psutil
import pytest
from under_load import Load, stubs_that_answer, stubs_under, supervised, triton_under, wait_until

from sparseinst_client import Client
from sparseinst_server import ServerError, TritonServer
from sparseinst_server.supervisor import Patience, Supervisor

STARTED_AGAIN = "Triton was started again"
PROMISE = 10.0  # seconds until a dead stub is noticed


@pytest.mark.parametrize(("control", "remedy"), [("explicit", "loaded again"), ("none", STARTED_AGAIN)])
def test_a_killed_stub_is_noticed_and_repaired_and_no_answer_is_wrong(
    repository, serve_python, expected, tmp_path, record_property, control, remedy
):
    arguments = (f"--control={control}", f"--log={tmp_path / 'log'}")
    with (
        supervised(serve_python, repository, *arguments) as server,
        Load(server.url["grpc"], expected, timeout=4) as load,
    ):
        assert load.goes_on()
        triton = triton_under(server.pid)
        model, stubs = stubs_that_answer(server.pid)
        for stub in stubs:
            stub.kill()
        killed = time.monotonic()
        noticed = server.says(f"a process of {model} is gone|Triton ended by itself", PROMISE, killed)
        aborted = any("Triton ended by itself" in line for _, line in server.said)
        repaired = server.says(f"answers again, .* {STARTED_AGAIN if aborted else remedy}", 30, killed)
        assert load.goes_on()
        if not aborted:
            assert triton.is_running() == (control == "explicit"), "only where nothing else helps Triton is ended"
    assert not load.wrong
    assert not load.surprises, "what was lost is an error of the client's own"
    record_property("seconds until noticed, until repaired", (noticed, repaired))
    record_property("lost", dict(load.failures))


def test_one_dead_stub_of_several_is_noticed_though_pictures_come_through(repository, serve_python, expected):
    with TritonServer(repository, python=serve_python, grace=2) as server, Client(server.http_url) as client:
        supervisor = Supervisor(server)
        assert supervisor.look() is None
        model, stubs = max(stubs_under(server.pid).items(), key=lambda item: len(item[1]))
        assert len(stubs) > 1, "the test wants a model with several"
        stubs[0].kill()
        assert wait_until(lambda: stubs[0].status() == psutil.STATUS_ZOMBIE)
        client.segment(next(iter(expected)))
        fault = supervisor.look()
    assert fault is not None
    assert fault.models == {model}


def test_an_overloaded_server_is_left_alone_until_it_answers_nobody(repository, serve_python, expected):
    with TritonServer(repository, python=serve_python, grace=2) as server:
        supervisor = Supervisor(server)
        with Load(server.grpc_url, expected, callers=40, timeout=4) as load:
            assert wait_until(lambda: load.failures["Overloaded"] > 20)
            refused = load.failures["Overloaded"]
            # In such a hurry that most find nobody answered since the last, and send a picture of their own.
            assert [fault for _ in range(50) if (fault := supervisor.look())] == []
            assert load.failures["Overloaded"] > refused
            for stub in stubs_that_answer(server.pid)[1]:
                stub.suspend()
            time.sleep(0.5)  # what was under way is through
            supervisor.look()
            fault = supervisor.look()
            triton_under(server.pid).kill()  # nobody waits for what it holds
    assert fault is not None
    assert "no picture comes through" in fault.sentence


def test_a_supervisor_gives_up_in_words(repository, serve_python, tmp_path):
    with TritonServer(repository, python=serve_python, grace=2) as server:
        supervisor = Supervisor(server, Patience(interval=0.1, pause=0.1, repairs=2))
        server.repository = tmp_path  # nothing to serve there
        triton_under(server.pid).kill()
        with pytest.raises(ServerError, match=r"gave up after 2 repairs in a row, the last because of: .*model"):
            supervisor.run()
