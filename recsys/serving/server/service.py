"""Work of a worker: requests are read, answered in threads, and counted; so many are taken at once, and no more."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from recsys.serving.server import metrics
from recsys.serving.server.limits import Limits
from recsys.serving.server.observed import GONE, Record
from recsys.serving.server.refusal import Refusal, require_lists
from recsys.serving.server.versions import Served, Versions
from recsys_pipelines.request.transform import BadRequest, Encoded

THREADS = 2  # that answer: while one is in the network, which needs no Python, the other reads
RETRY = {"retry-after": "1"}
CLOSE = {"connection": "close"}  # for what is left of a body is not read
Row = dict[str, Any]


class Service:
    """The versions, limits and threads of one worker."""

    def __init__(self, versions: Versions, limits: Limits) -> None:
        self.versions = versions
        self.limits = limits
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
        self._in_flight = 0

    def served(self, request: Request) -> Served:
        """Return the version that answers a request, and note it. Raises Refusal where none is loaded."""
        if (served := self.versions.served) is None:
            raise Refusal(503, "no version is loaded", headers=RETRY)
        record_of(request).version = served.version
        return served

    async def answer(self, request: Request, work: Callable[[Served, bytes], Response]) -> Response:
        """Read the body of a request, and return what `work` makes of it in a thread.

        Raises Refusal where the worker is full, the body is too large or does not come, or the answer takes too long:
        it is then thrown away.
        """
        with self._place():
            body = await self._body(request)
            served = self.served(request)
            future = asyncio.get_running_loop().run_in_executor(self._pool, work, served, body)
            try:
                return await asyncio.wait_for(future, self.limits.seconds)
            except TimeoutError:
                raise Refusal(
                    503,
                    "there was no answer in time",
                    expected=f"{self.limits.seconds:g} seconds",
                    headers=RETRY,
                ) from None

    def predict(self, request: Request, served: Served, rows: list[Row]) -> np.ndarray:
        """Return click probabilities, float64 [n], of rows, and count them.

        Raises Refusal for a row that cannot be read, or has a list that is too long.
        """
        if not rows:
            return np.empty(0)
        try:
            encoded = served.predictor.transform.encode(rows)
        except BadRequest as error:
            raise Refusal.of_row(error) from None
        self._require_short_lists(encoded)
        probabilities = served.predictor.score(encoded)
        self._count(request, served, len(rows), encoded)
        return probabilities

    def rank(self, request: Request, served: Served, context: Row, items: list[Row]) -> np.ndarray:
        """Return click probabilities, float64 [n], of items in one context, and count them.

        Raises Refusal as `predict` does.
        """
        if not items:
            return np.empty(0)
        try:
            own, shared = served.predictor.encode_ranked(context, items)
        except BadRequest as error:
            refusal = Refusal.of_row(error)
            if error.feature in context and error.feature not in items[error.row]:
                refusal.body["row"] = None  # it is that of all rows
            raise refusal from None
        for encoded in (own, shared):
            self._require_short_lists(encoded)
        probabilities = served.predictor.score(own, shared)
        self._count(request, served, len(items), own, shared)
        return probabilities

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._in_flight >= self.limits.in_flight:
            raise Refusal(503, "too many requests at once", headers=RETRY)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _body(self, request: Request) -> bytes:
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and len(declared) < 20:
            self._require_small(int(declared))
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    size += len(part)
                    self._require_small(size)
                    parts.append(part)
        except TimeoutError:
            expected = f"all of it in {self.limits.seconds:g} seconds"
            raise Refusal(408, "the body did not arrive", expected=expected, headers=CLOSE) from None
        except ClientDisconnect:
            raise Refusal(GONE, "the client has gone") from None
        return b"".join(parts)

    def _require_small(self, size: int) -> None:
        if size > (most := self.limits.body_bytes):
            raise Refusal(413, "too large a body", expected=f"at most {most} bytes", headers=CLOSE)

    def _require_short_lists(self, encoded: Encoded) -> None:
        for name, bags in encoded.bags.items():
            if len(bags.values) > self.limits.list_length:
                require_lists(name, np.diff(bags.offsets), self.limits)

    def _count(self, request: Request, served: Served, rows: int, *encoded: Encoded) -> None:
        record_of(request).rows = rows
        metrics.count_rows(served.version, rows)
        for part in encoded:
            metrics.count_values(part.missing, part.unknown)


def record_of(request: Request) -> Record:
    """Return what is noted of a request."""
    record: Record = request.state.record
    return record
