"""What a request is refused with: a status, and one body whatever is wrong."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.responses import Response

from recsys.serving.server.limits import Limits
from recsys_pipelines.request.transform import BadRequest

SHOWN = 60  # characters of a value that a body shows


class Refusal(Exception):
    """A request that is not answered: the status, a sentence, and what the sentence is about where that is known."""

    def __init__(
        self,
        status: int,
        error: str,
        *,
        expected: str | None = None,
        feature: str | None = None,
        row: int | None = None,
        value: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.headers = status, dict(headers or {})
        self.body = {
            "error": error,
            "feature": feature,
            "row": row,
            "value": _shown(value),
            "expected": expected,
        }

    @classmethod
    def of_row(cls, error: BadRequest) -> "Refusal":
        """Return the refusal of a row that cannot be read."""
        return cls(
            400,
            error.reason,
            expected=error.expected,
            feature=error.feature,
            row=error.row,
            value=error.value,
        )

    def response(self) -> Response:
        """Return it as a response."""
        return json_response(self.body, self.status, self.headers)


def require_rows(rows: int, limits: Limits) -> None:
    """Raise Refusal where a request has more rows than it may."""
    if rows > limits.rows:
        raise Refusal(413, "too many rows in one request", value=rows, expected=f"at most {limits.rows} rows")


def require_lists(feature: str, lengths: np.ndarray, limits: Limits, before: int = 0) -> None:
    """Raise Refusal where one of the lists of a feature, int [n], is longer than it may be; `before` rows come first."""
    if lengths.max(initial=0) > limits.list_length:
        row = int(lengths.argmax())
        raise Refusal(
            413,
            "too long a list",
            feature=feature,
            row=before + row,
            value=int(lengths[row]),
            expected=f"at most {limits.list_length} values",
        )


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a body as JSON in ASCII, for what came with a request may be half a surrogate pair."""
    return Response(json.dumps(body, allow_nan=False), status, headers, "application/json")


def _shown(value: Any) -> Any:
    """Return a value as JSON has it where it is short and plain, and otherwise the beginning of its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**64 else _cut(hex(value))
    return _cut(value if isinstance(value, str) else repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
