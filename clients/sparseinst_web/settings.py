"""What a gateway is told: which server, how much it takes from browsers, whom it talks to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sparseinst_runtime.limits import Limits

EXAMPLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Settings:
    """Settings of a gateway.

    Attributes:
        url: the SparseInst server, `grpc://host:port` or `http://host:port`.
        max_bytes: the largest picture that is taken, in bytes; what is larger is refused while it arrives.
        deadline: seconds for one request in all: its upload, its wait and the server's work.
        concurrency: pictures that the server is asked about at the same time.
        waiting: pictures beyond those that may wait; with more the gateway answers 503 at once.
        floor: the lowest score that is asked for, in [0, 1]. The page's slider hides instances above it without asking
            again.
        origins: other sites, such as `https://lab.example.org`, whose pages may use this gateway. None by default.
        examples: folder of pictures that the page offers to try; none when None.
    """

    url: str
    max_bytes: int = Limits().max_bytes
    deadline: float = 30.0
    concurrency: int = 4
    waiting: int = 16
    floor: float = 0.05
    origins: tuple[str, ...] = ()
    examples: Path | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no request could meet."""
        for field in ("max_bytes", "concurrency"):
            _want(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        _want(self.waiting >= 0, "waiting", self.waiting, "at least 0")
        _want(math.isfinite(self.deadline) and self.deadline > 0, "deadline", self.deadline, "seconds, more than 0")
        _want(0 <= self.floor <= 1, "floor", self.floor, "a number in [0, 1]")
        for origin in self.origins:
            parts = urlsplit(origin)
            plain = parts.scheme in {"http", "https"} and origin == f"{parts.scheme}://{parts.netloc}" and parts.netloc
            _want(bool(plain), "an origin", origin, "scheme://host or scheme://host:port, without a path")
        if self.examples is not None:
            _want(self.examples.is_dir(), "examples", str(self.examples), "a folder of pictures")

    @property
    def limits(self) -> Limits:
        """What pictures are taken, by their header."""
        return Limits(max_bytes=self.max_bytes)

    def example_files(self) -> dict[str, Path]:
        """The pictures in `examples` by their file name, sorted."""
        if self.examples is None:
            return {}
        files = sorted(path for path in self.examples.iterdir() if path.suffix.lower() in EXAMPLE_SUFFIXES)
        return {path.name: path for path in files if path.is_file()}


def _want(holds: bool, field: str, got: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {got!r}; wanted {wanted}")
