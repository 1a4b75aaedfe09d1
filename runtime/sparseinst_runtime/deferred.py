"""Answers that threads give later, while Triton goes on handing in requests. For the model repository.

A Python model that answers within `execute` sees one request at a time, and all others lie in Triton's queue, where
nothing bounds them without the dynamic batcher. This one takes each request as it comes, refuses what would wait too
long within milliseconds, and answers the others one after the other, each when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparseinst_runtime.backlog import Backlog, BacklogFullError
from sparseinst_runtime.events import failure
from sparseinst_runtime.metrics import REFUSED, REQUEST, WAIT, Metrics
from sparseinst_runtime.triton import Arrays, cancelled, response

FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL: the one answer to a request, and its last


class _Deferred(NamedTuple):
    """A request that was let in: its inputs, ours to keep, where its answer goes, and when it came."""

    inputs: dict[str, NDArray[Any]]
    sender: Any
    request_id: str
    came: float  # by time.perf_counter()


class Deferred:
    """Takes requests in `execute`, which then returns None, and answers them from threads.

    Args:
        pb_utils: Triton's module `triton_python_backend_utils`.
        answers: for each thread a function from a request's inputs to its outputs, by name; what it gives is sent
            before its next call. Errors become responses as with `triton.respond`.
        longest_wait: seconds that a request may be expected to wait before it is begun; beyond, or beyond the
            request's own timeout where that is shorter, it is answered UNAVAILABLE at once.
        metrics: counts what is not answered.
    """

    def __init__(
        self, pb_utils: Any, answers: Sequence[Callable[[Arrays], Arrays]], longest_wait: float, metrics: Metrics
    ) -> None:
        self._pb_utils, self._metrics = pb_utils, metrics
        self._backlog = Backlog([self._worker(answer) for answer in answers], longest_wait)

    def take(self, requests: Iterable[Any]) -> None:
        """Let Triton's InferenceRequest objects in, or refuse them."""
        for request in requests:
            inputs = {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}
            sender = request.get_response_sender()
            pictures = max(map(len, inputs.values()), default=1)
            patience = request.timeout() / 1e6 or None  # microseconds; 0 where the client names none
            entry = _Deferred(inputs, sender, request.request_id(), time.perf_counter())
            try:
                self._backlog.put(entry, pictures, patience)
            except BacklogFullError as error:
                self._metrics.count(REFUSED)
                refusal = self._pb_utils.TritonError(str(error), self._pb_utils.TritonError.UNAVAILABLE)
                sender.send(self._pb_utils.InferenceResponse(error=refusal), flags=FINAL)

    def finish(self) -> None:
        """Answer what was let in, end the threads, deliver what was counted; for `finalize`."""
        self._backlog.close()
        self._metrics.close()

    def _worker(self, answer: Callable[[Arrays], Arrays]) -> Callable[[_Deferred], None]:
        def work(request: _Deferred) -> None:
            self._metrics.observe(WAIT, time.perf_counter() - request.came)
            if request.sender.is_cancelled():
                said = cancelled(self._pb_utils, self._metrics)
            else:
                said = response(self._pb_utils, answer, lambda: request.inputs, self._metrics, request.request_id)
            self._send(request, said)
            self._metrics.observe(REQUEST, time.perf_counter() - request.came)

        return work

    def _send(self, request: _Deferred, said: Any) -> None:
        """Send a response, or a short one in its place where Triton does not take it: no shared memory is left, say."""
        sentence = "the server could not send its answer, and its log says why; other requests are not affected"
        short = self._pb_utils.InferenceResponse(error=self._pb_utils.TritonError(sentence))
        for each in (said, short):
            try:
                request.sender.send(each, flags=FINAL)
            except Exception as error:  # the thread has to live on, for the next request
                failure("answer_lost", error, request_id=request.request_id, **self._metrics.labels)
            else:
                return
