"""The ways of a call to a Triton server under asyncio: grpc.aio and aiohttp.

As for `transport`: a deadline covers all of a call, and nothing but SparseInstError tells of a server. Connections open
with the first call, in the loop that it runs in; every loop has its own. They lead to the address and nowhere else:
what the environment says of proxies is not obeyed.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol, TypeVar

import aiohttp
import grpc
import grpc.aio

from sparseinst_client.address import Address
from sparseinst_client.errors import PORTS, DeadlineExceeded, ReplyError, ServerUnavailable, from_status
from sparseinst_client.loops import PerLoop
from sparseinst_client.wire import MAX_REPLY, MAX_SMALL, Call, Reply, Wire
from sparseinst_client.wire_grpc import GrpcWire
from sparseinst_client.wire_http import HttpWire, refusal

# Pictures go out whatever their size: the server has the limits. The ping finds connections that a NAT dropped, and is
# rare enough for a server's default patience (two pings without data). Where nobody listened, a channel tries again as
# soon as our retries ask it to: gRPC's own pauses, of seconds, would let them fail without a look; its own retries
# would multiply ours. Nobody needs compressed replies, and what they would grow to is not known before.
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REPLY),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # identity
]

_T = TypeVar("_T")
_processes: set[int] = set()  # that used grpc.aio, this one and those it was forked from


class AioTransport(Protocol):
    """As `Transport`, to be awaited; cancelling the task that awaits ends the call."""

    url: str
    wire: Wire

    async def ask(self, call: Call[_T], timeout: float) -> _T:
        """The answer to a call."""

    async def close(self) -> None:
        """Close the connections."""


def connect(address: Address) -> AioTransport:
    """The transport for an address; opens no connection yet."""
    return AioGrpcTransport(address) if address.speaks_grpc else AioHttpTransport(address)


class AioGrpcTransport:
    """gRPC by grpc.aio."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.wire: Wire = GrpcWire()
        self._address = address
        self._metadata = tuple((name.lower(), value) for name, value in address.headers.items())
        self._credentials = address.grpc_credentials() if address.tls else None
        self._channels = PerLoop(self._open)
        self._closed = False

    async def ask(self, call: Call[_T], timeout: float) -> _T:
        """One unary call."""
        try:
            if self._closed:
                raise closed(self.url)
            self._channels.take_ended()
            method = self._channels.get().unary_unary(call.target)
            data = await method(call.body, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_status(str(error.code()), error.details(), self.url) from None
        except asyncio.CancelledError:
            if self._closed:  # grpc.aio cancels what is under way, although nobody cancelled the task
                raise closed(self.url) from None
            raise
        return read_reply_bytes(call, data, self.url)

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._channels.take_ended()
        for channel in self._channels.take_own():
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        if _processes and os.getpid() not in _processes:  # it would die of a segmentation fault
            hint = "start processes by spawn or forkserver, ask by http://, or use Client"
            raise RuntimeError(f"gRPC under asyncio was in use when this process was forked, and broke by that; {hint}")
        _processes.add(os.getpid())
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address.netloc, CHANNEL)
        return grpc.aio.secure_channel(self._address.netloc, self._credentials, CHANNEL)


class AioHttpTransport:
    """HTTP by aiohttp; connections are kept."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.wire: Wire = HttpWire()
        self._headers = {**address.headers, "Accept-Encoding": "identity"}  # as CHANNEL says of compression
        self._context = address.ssl_context() if address.tls else None
        self._sessions = PerLoop(self._open)
        self._closed = False

    async def ask(self, call: Call[_T], timeout: float) -> _T:
        """One exchange."""
        try:
            data, reply = await asyncio.wait_for(self._exchange(call), timeout)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no reply from {self.url} within {timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            reason = getattr(error, "os_error", error)  # without what aiohttp puts around it
            raise ServerUnavailable(f"{self.url} cannot be reached: {reason}; {PORTS}") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise ServerUnavailable(f"{self.url} cannot be reached, or left before it had answered: {error}") from error
        except (aiohttp.ClientError, ValueError) as error:  # not HTTP
            said = str(error).partition("\n")[0][:200]
            raise ReplyError(f"{self.url} sent a reply that cannot be read ({said}); {PORTS}") from error
        if reply.status != 200 and not call.refusals:
            raise from_status(str(reply.status), refusal(data), self.url)
        return read_reply_bytes(call, data, self.url, reply)

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        for session in self._sessions.take_own():
            await session.close()

    async def _exchange(self, call: Call[_T]) -> tuple[bytes, Reply]:
        verb, path = call.target.split(" ")
        if self._closed:
            raise closed(self.url)
        for ended in self._sessions.take_ended():
            await ended.close()  # their sockets went with their loop; aiohttp would complain
        async with self._sessions.get().request(
            verb, f"{self.url}{path}", data=call.body or None, headers=call.headers, allow_redirects=False
        ) as response:
            limit = call.limit if response.status == 200 else MAX_SMALL
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise ReplyError(f"{self.url} sent a reply of more than {limit} bytes")
            return bytes(data), Reply(response.status, response.headers)

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._context or True),  # the client bounds its calls
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `ask` limits the whole call
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )


def closed(url: str) -> ServerUnavailable:
    """The error of calls that a client was closed under."""
    return ServerUnavailable(f"the connection to {url} was closed")


def read_reply_bytes(call: Call[_T], data: bytes, url: str, reply: Reply | None = None) -> _T:
    """The answer in a reply; errors name the server."""
    if len(data) > call.limit:
        raise ReplyError(f"{url} sent a reply of {len(data)} bytes; wanted at most {call.limit}")
    try:
        return call.read(data, reply or Reply())
    except ReplyError as error:
        raise ReplyError(f"{url}: {error}") from error
