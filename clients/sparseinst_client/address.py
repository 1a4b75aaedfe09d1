"""Where a server is and how to be let in: the URL, what TLS trusts and shows, and headers of every request."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import grpc

_SCHEMES = {"grpc", "http", "grpcs", "https"}
_WANTED = "wanted grpc://host:port (Triton's default port: 8001) or http://host:port (8000); with TLS grpcs, https"
_HEADER = re.compile(r"[0-9A-Za-z_.-]+")  # what HTTP and gRPC both take as a name


@dataclass(frozen=True)
class Address:
    """A checked address; opens nothing.

    Attributes:
        url: `grpc://host:port`, `http://host:port`, or with TLS `grpcs://`, `https://`.
        headers: sent with every request; over gRPC as metadata. Never part of a message or of the repr.
        ca: PEM file of the authorities that a server's certificate must come from; the usual ones when None.
        certificate: PEM file of the certificate that the client shows, for servers that ask for one.
        key: PEM file of its private key, without a pass phrase.

    Raises:
        ValueError, TypeError: an address of another form, a header that cannot be sent, TLS files without TLS.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what would fail at the first call."""
        if not isinstance(self.url, str):
            raise TypeError(f"url is {self.url!r}; {_WANTED}")
        if "@" in self.url:  # likely a password comes before it: it is not repeated
            raise ValueError(f"the url names a user, who belongs into headers={{'Authorization': ...}}; {_WANTED}")
        try:
            parts = urlsplit(self.url)
            complete = bool(parts.hostname) and parts.port is not None
        except ValueError as error:
            raise ValueError(f"url is {self.url!r} ({error}); {_WANTED}") from error
        extra = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in _SCHEMES or not complete or extra:
            raise ValueError(f"url is {self.url!r}; {_WANTED}")
        object.__setattr__(self, "url", f"{parts.scheme}://{parts.netloc}")
        _check_headers(self.headers)
        object.__setattr__(self, "headers", dict(self.headers))
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError(f"{self.url} is not encrypted and takes no certificates; wanted grpcs:// or https://")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("a client's certificate and its key belong together; one is missing")
        for path in (self.ca, self.certificate, self.key):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"there is no file {path}; wanted certificates or a key in PEM")

    @property
    def speaks_grpc(self) -> bool:
        """Whether this is gRPC, and not HTTP."""
        return self.url.startswith("grpc")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith(("grpcs://", "https://"))

    @property
    def netloc(self) -> str:
        """`host:port`."""
        return urlsplit(self.url).netloc

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants to know for TLS.

        Raises:
            ValueError: as `ssl_context`; gRPC itself would find out at every call, and say that nobody is there.
        """
        self.ssl_context()
        parts = (Path(path).read_bytes() if path else None for path in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(*parts)

    def ssl_context(self) -> ssl.SSLContext:
        """The same for HTTP.

        Raises:
            ValueError: a file holds no PEM, or key and certificate do not belong together.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key, password="")  # None would ask at the terminal
        except ssl.SSLError as error:
            raise ValueError(f"the certificates for {self.url} cannot be used: {error}") from error
        return context


def _check_headers(headers: Mapping[str, str]) -> None:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers is a {type(headers).__name__}; wanted a mapping of names to values")
    for name, value in headers.items():
        if not (isinstance(name, str) and _HEADER.fullmatch(name)):
            raise ValueError(f"a header is named {name!r}; wanted letters, digits and -_.")
        if name.lower().endswith("-bin"):
            raise ValueError(f"a header is named {name!r}; gRPC keeps names that end in -bin for bytes")
        # The value is likely a secret: it is not repeated.
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError(f"the value of the header {name} cannot be sent; wanted printable ASCII")
