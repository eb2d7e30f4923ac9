"""The paths that a worker answers, and what it does beside: it looks for another version."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from recsys.serving.server import json_body, metrics
from recsys.serving.server.limits import Limits
from recsys.serving.server.log import log
from recsys.serving.server.metadata import describe
from recsys.serving.server.observed import Observed
from recsys.serving.server.refusal import Refusal, json_response
from recsys.serving.server.service import Service, record_of
from recsys.serving.server.versions import Served, Versions

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"


def make_app(versions: Versions, limits: Limits, reload_seconds: float) -> Observed:
    """Return the application of one worker, which looks for another version every so many seconds."""
    endpoints = Endpoints(Service(versions, limits))
    routes = endpoints.routes()
    paths = {route.path for route in routes}

    async def not_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _respond(request, _of_http(error, request, paths))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return _respond(request, error)

    async def failed(request: Request, error: Exception) -> Response:
        return _respond(request, Refusal(500, "the server has failed; its log says where"))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if versions.served is None:
            await asyncio.to_thread(_refresh, versions)
        task = asyncio.create_task(_look_for_versions(versions, reload_seconds))
        yield
        task.cancel()
        endpoints.service.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={Refusal: refused, HTTPException: not_http, Exception: failed},
    )
    app.router.redirect_slashes = False
    return Observed(app, paths)


class Endpoints:
    """What each path answers."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[Route]:
        """Return the paths."""
        return [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/rank", self.rank, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metadata", self.metadata),
            Route("/metrics", self.metrics),
        ]

    async def predict(self, request: Request) -> Response:
        """Answer rows with their click probabilities."""
        limits = self.service.limits
        if _media_type(request, JSON, ARROW) == JSON:

            def work(served: Served, body: bytes) -> Response:
                rows = json_body.rows_of(body, limits)
                return _probabilities(self.service.predict(request, served, rows))
        else:

            def work(served: Served, body: bytes) -> Response:
                from recsys.serving.server import arrow_body  # JSON needs no Arrow

                rows = arrow_body.rows_of(body, limits)
                stream = arrow_body.stream_of(self.service.predict(request, served, rows))
                return Response(stream, media_type=ARROW)

        return await self.service.answer(request, work)

    async def rank(self, request: Request) -> Response:
        """Answer items in a context with their click probabilities, in the order of the items."""
        _media_type(request, JSON)

        def work(served: Served, body: bytes) -> Response:
            context, items = json_body.context_and_items_of(body, self.service.limits)
            return _probabilities(self.service.rank(request, served, context, items))

        return await self.service.answer(request, work)

    async def healthz(self, request: Request) -> Response:
        """Answer while the process lives."""
        return json_response({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """Answer whether a version is loaded."""
        self.service.served(request)
        return json_response({"status": "ready"})

    async def metadata(self, request: Request) -> Response:
        """Answer what is served, and what a request may hold."""
        served = self.service.served(request)
        body = await asyncio.to_thread(describe, served, self.service.versions, self.service.limits)
        return json_response(body)

    async def metrics(self, request: Request) -> Response:
        """Answer Prometheus, for all workers."""
        text, content_type = await asyncio.to_thread(metrics.exposition)
        return Response(text, headers={"content-type": content_type})


def _probabilities(probabilities: np.ndarray) -> Response:
    return json_response({"predictions": probabilities.tolist()})


def _media_type(request: Request, *known: str) -> str:
    """Return the media type of a body. Raises Refusal for one that is not known, or encoded."""
    declared = request.headers.get("content-type", "")
    kind = declared.partition(";")[0].strip().lower()
    if kind not in known:
        raise Refusal(
            415, "another media type", value=declared, expected=f"content-type: {' or '.join(known)}"
        )
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise Refusal(415, "an encoded body", value=encoding, expected="a body without content-encoding")
    return kind


def _of_http(error: HTTPException, request: Request, paths: set[str]) -> Refusal:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        expected = headers.get("Allow")
        return Refusal(405, "another method", value=request.method, expected=expected, headers=headers)
    expected = ", ".join(sorted(paths))
    return Refusal(
        error.status_code, "no such path", value=request.url.path, expected=expected, headers=headers
    )


def _respond(request: Request, refusal: Refusal) -> Response:
    record_of(request).error = str(refusal)
    return refusal.response()


async def _look_for_versions(versions: Versions, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(_refresh, versions)
        parent = multiprocessing.parent_process()
        if (
            parent is not None and not parent.is_alive()
        ):  # it was killed, and nobody else would stop its workers
            signal.raise_signal(signal.SIGTERM)


def _refresh(versions: Versions) -> None:
    if versions.refresh():
        if versions.refused is not None:
            log("refused", name=versions.refused.name, error=versions.refused.error)
        elif versions.served is not None:
            log("served", name=versions.served.name, version=versions.served.version)
