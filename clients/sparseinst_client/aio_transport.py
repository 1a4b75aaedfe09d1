"""The ways of a call to a Triton server under asyncio: grpc.aio and aiohttp.

As for `transport`: a deadline covers all of a call, and nothing but SparseInstError tells of a server. Connections open
with the first call, in the loop that it runs in; in another loop they open anew.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

import aiohttp
import grpc
import grpc.aio

from sparseinst_client.address import Address
from sparseinst_client.errors import DeadlineExceeded, ReplyError, ServerUnavailable, from_status
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
    ("grpc.compression_enabled_algorithms_bitset", 1),  # identity
]

_T = TypeVar("_T")


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
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, call: Call[_T], timeout: float) -> _T:
        """One unary call."""
        try:
            method = self._connected().unary_unary(call.target)
            data = await method(call.body, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_status(str(error.code()), error.details(), self.url) from None
        except asyncio.CancelledError:
            if self._closed:  # grpc.aio cancels what is under way, although nobody cancelled the task
                raise ServerUnavailable(f"the connection to {self.url} was closed") from None
            raise
        return read_reply_bytes(call, data, self.url)

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()

    def _connected(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            self._loop = loop
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self._address.netloc, CHANNEL)
            else:
                self._channel = grpc.aio.secure_channel(self._address.netloc, self._credentials, CHANNEL)
        return self._channel


class AioHttpTransport:
    """HTTP by aiohttp; connections are kept."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.wire: Wire = HttpWire()
        self._headers = {**address.headers, "Accept-Encoding": "identity"}  # as CHANNEL says of compression
        self._context = address.ssl_context() if address.tls else None
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, call: Call[_T], timeout: float) -> _T:
        """One exchange."""
        try:
            data, reply = await asyncio.wait_for(self._exchange(call), timeout)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no reply from {self.url} within {timeout:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise ServerUnavailable(f"{self.url} cannot be reached, or left before it had answered: {error}") from error
        except (aiohttp.ClientError, ValueError) as error:  # not HTTP
            raise ReplyError(f"{self.url} sent a reply that cannot be read: {error}") from error
        if reply.status != 200 and not call.refusals:
            raise from_status(str(reply.status), refusal(data), self.url)
        return read_reply_bytes(call, data, self.url, reply)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None and self._loop is asyncio.get_running_loop():
            await self._session.close()

    async def _exchange(self, call: Call[_T]) -> tuple[bytes, Reply]:
        verb, path = call.target.split(" ")
        session = self._connected()
        async with session.request(
            verb, f"{self.url}{path}", data=call.body or None, headers=call.headers, allow_redirects=False
        ) as response:
            limit = call.limit if response.status == 200 else MAX_SMALL
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > limit:
                    raise ReplyError(f"{self.url} sent a reply of more than {limit} bytes")
            return bytes(data), Reply(response.status, response.headers)

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._context or True),  # the client bounds its calls
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `ask` limits the whole call
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


def read_reply_bytes(call: Call[_T], data: bytes, url: str, reply: Reply | None = None) -> _T:
    """The answer in a reply; errors name the server."""
    if len(data) > call.limit:
        raise ReplyError(f"{url} sent a reply of {len(data)} bytes; wanted at most {call.limit}")
    try:
        return call.read(data, reply or Reply())
    except ReplyError as error:
        raise ReplyError(f"{url}: {error}") from error
