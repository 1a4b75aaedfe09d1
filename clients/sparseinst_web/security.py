"""What browsers are told to refuse on the page's behalf, and which other sites' pages the gateway refuses."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparseinst_web.refusal import Refusal

# Scripts, styles and connections from this gateway only, nothing inline, no plug-ins, no frames. Pictures may come from
# the page's own memory (blob:).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "worker-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Adds `HEADERS` to every response, errors included, and has nothing kept that was not asked about anew."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def check_origin(request: Request, origins: tuple[str, ...]) -> None:
    """Let only the page itself, programs and allowed sites have pictures segmented.

    A browser would not show another site the answer; this keeps it from sending work at all.

    Raises:
        Refusal: 403, the request comes from a page of another site.
    """
    origin = request.headers.get("origin")
    if origin is None or origin in origins or urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise Refusal(403, "other_origin", "pages of other sites may not use this gateway; its --allow-origin names those")
