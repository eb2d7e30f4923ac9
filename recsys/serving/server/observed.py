"""Around the application: each request has an id, a line in the log, and is counted."""

import re
import time
import uuid
from collections.abc import Container
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.serving.server import metrics
from recsys.serving.server.log import log

REQUEST_ID, VERSION = "x-request-id", "x-model-version"
GONE = 499  # the status of a request whose client did not wait, as nginx has it
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PATH_SHOWN = 200  # characters


@dataclass
class Record:
    """What is noted of a request while it is answered; `version` goes into the answer's headers."""

    id: str
    status: int = GONE
    version: str | None = None
    rows: int | None = None
    error: str | None = None


class Observed:
    """An ASGI application that notes what another answers."""

    def __init__(self, app: ASGIApp, paths: Container[str]) -> None:
        self._app = app
        self._paths = paths  # that are counted by their name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and write it down."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.perf_counter()
        record = Record(_request_id(scope))
        scope.setdefault("state", {})["record"] = record

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message["headers"], (REQUEST_ID.encode(), record.id.encode())]
                if record.version is not None:
                    headers.append((VERSION.encode(), record.version.encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self._paths else "other"
            metrics.count_request(path, record.status, seconds)
            _write_line(scope, record, seconds)


def _write_line(scope: Scope, record: Record, seconds: float) -> None:
    log(
        "request",
        id=record.id,
        method=scope["method"],
        path=scope["path"][:_PATH_SHOWN],
        status=record.status,
        milliseconds=round(1000 * seconds, 3),
        rows=record.rows,
        version=record.version,
        error=record.error,
    )


def _request_id(scope: Scope) -> str:
    """Return the id that came with a request where it is short and plain, and otherwise a new one."""
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == REQUEST_ID.encode()]
    return given[0] if len(given) == 1 and _SANE.fullmatch(given[0]) else uuid.uuid4().hex
