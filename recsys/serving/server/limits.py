"""What the server takes at most, so that no request takes more memory or time than its share."""

from dataclasses import dataclass


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
