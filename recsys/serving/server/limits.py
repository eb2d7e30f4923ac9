"""What the server takes at most, so that no request takes more memory or time than its share."""

from dataclasses import dataclass

from recsys.serving.server.refusal import Refusal


@dataclass(frozen=True)
class Limits:
    """Limits of one worker.

    Attributes:
        body_bytes: Of a request.
        rows: Of a request, or items that are ranked.
        list_length: Elements of one value, as they are read.
        in_flight: Requests that are read or answered at once; another is sent away with status 503.
        seconds: In which a body must arrive, and then an answer must be there.
    """

    body_bytes: int = 4 << 20
    rows: int = 4096
    list_length: int = 512
    in_flight: int = 64
    seconds: float = 10.0

    def require_rows(self, rows: int) -> None:
        """Raise Refusal where a request has more rows than it may."""
        if rows > self.rows:
            expected = f"at most {self.rows} rows"
            raise Refusal(413, "too many rows in one request", value=rows, expected=expected)

    def require_list(self, feature: str, row: int, length: int) -> None:
        """Raise Refusal where a list is longer than it may be."""
        if length > self.list_length:
            expected = f"at most {self.list_length} values"
            raise Refusal(413, "too long a list", feature=feature, row=row, value=length, expected=expected)
