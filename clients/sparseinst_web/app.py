"""The gateway: serves the page and passes pictures on to the SparseInst server.

    GET  /               the page
    GET  /api/model      what is served: classes, thresholds, limits, examples
    POST /api/segment    the bytes of one picture as the body; gives its instances
    GET  /api/examples/  the pictures that the page offers to try
    GET  /healthz        200 while the gateway itself runs

Whatever fails answers `{"error": {"code", "message"}}`; refusal.py has the list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sparseinst_client.errors import SparseInstError
from sparseinst_runtime.limits import PictureError
from sparseinst_web.refusal import Refusal, from_client, stopping, too_slow, upload_too_slow
from sparseinst_web.security import SecurityHeaders, check_origin
from sparseinst_web.segmenter import Segmented, Segmenter
from sparseinst_web.settings import Settings
from sparseinst_web.upload import Upload

STATIC = Path(__file__).parent / "static"
_MODEL_SECONDS = 5.0  # what the model is takes milliseconds to say
_log = logging.getLogger("sparseinst_web")


def create_app(settings: Settings) -> Starlette:
    """The ASGI application of one gateway."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.settings, app.state.segmenter = settings, Segmenter(settings)
        yield
        await app.state.segmenter.close()

    middleware = [Middleware(SecurityHeaders)]
    if settings.origins:
        cors = Middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"])
        middleware.append(cors)
    return Starlette(
        lifespan=lifespan,
        middleware=middleware,
        routes=[
            Route("/", _page),
            Route("/api/model", _model),
            Route("/api/segment", _segment, methods=["POST"]),
            Route("/api/examples/{name}", _example),
            Route("/healthz", _health),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={Refusal: _refuse, HTTPException: _http_error, Exception: _internal_error},
    )


async def _page(_request: Request) -> Response:
    return FileResponse(STATIC / "index.html")


async def _health(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _model(request: Request) -> Response:
    settings: Settings = request.app.state.settings
    segmenter: Segmenter = request.app.state.segmenter
    seconds = min(settings.deadline, _MODEL_SECONDS)
    try:
        contract = await asyncio.wait_for(segmenter.contract(time.monotonic() + seconds), seconds)
    except asyncio.TimeoutError as error:
        raise too_slow(seconds) from error
    except SparseInstError as error:
        raise from_client(error, settings.deadline) from error
    limits = settings.limits
    return JSONResponse(
        {
            "name": contract.name,
            "classes": contract.classes,
            "category_ids": contract.category_ids,
            "score_threshold": contract.score_threshold,
            "floor": settings.floor,
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "formats": limits.formats,
            "examples": list(settings.example_files()),
        },
        headers={"Cache-Control": "no-store"},
    )


async def _segment(request: Request) -> Response:
    settings: Settings = request.app.state.settings
    segmenter: Segmenter = request.app.state.segmenter
    upload = Upload(request, settings.max_bytes)
    try:
        check_origin(request, settings.origins)
        found, times = await _found(segmenter, upload, settings.deadline)
    except Refusal as refusal:
        await upload.drop()
        refusal.hang_up = not upload.ended
        raise
    timing = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in times.items())
    return JSONResponse(_reply(found, times), headers={"Cache-Control": "no-store", "Server-Timing": timing})


async def _found(segmenter: Segmenter, upload: Upload, deadline: float) -> tuple[Segmented, dict[str, float]]:
    """What is in the picture that is being uploaded, and how many seconds went where."""
    start = time.monotonic()
    try:
        with anyio.fail_after(deadline), segmenter.place():
            data = await upload.read()
            uploaded = time.monotonic() - start
            found = await upload.while_wanted(segmenter.segment(data, start + deadline))
    except TimeoutError as error:
        raise (too_slow if upload.ended else upload_too_slow)(deadline) from error
    except asyncio.CancelledError as error:  # by none of the scopes above: the gateway was told to stop, and has waited
        raise stopping() from error
    except PictureError as error:
        raise Refusal(400, "not_a_picture", str(error)) from error
    except SparseInstError as error:
        raise from_client(error, deadline) from error
    return found, {"upload": uploaded, "wait": found.waited, "server": found.seconds}


def _reply(found: Segmented, times: dict[str, float]) -> dict[str, object]:
    """The instances as COCO results with a class name and a box each, and milliseconds."""
    instances, contract = found.instances, found.contract
    return {
        "model": contract.name,
        "height": instances.image_size[0],
        "width": instances.image_size[1],
        "format": found.header.format,
        "orientation": found.header.orientation,
        "milliseconds": {name: round(1000 * seconds, 1) for name, seconds in times.items()},
        "instances": [
            {
                "class": contract.classes[label],
                "category_id": contract.category_ids[label],
                "score": round(score, 4),
                "counts": counts.decode("ascii"),
            }
            for label, score, counts in zip(
                instances.labels.tolist(), instances.scores.tolist(), instances.rles, strict=True
            )
        ],
    }


async def _example(request: Request) -> Response:
    path = request.app.state.settings.example_files().get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return FileResponse(path)


async def _refuse(request: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refusal):
        raise refusal
    if refusal.status >= 500:
        _log.warning("%s %s: %s %s", request.url.path, refusal.status, refusal.code, refusal.detail)
    return refusal.response()


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        refusal = Refusal(405, "wrong_method", f"{request.url.path} does not take {request.method}")
    else:
        refusal = Refusal(error.status_code, "not_found", "there is nothing at this address; the page is at /")
    response = refusal.response()
    response.headers.update(error.headers or {})
    return response


async def _internal_error(_request: Request, _error: Exception) -> Response:
    # The traceback is logged by the server underneath.
    return Refusal(500, "internal", "the gateway failed on this request; its log knows more").response()
