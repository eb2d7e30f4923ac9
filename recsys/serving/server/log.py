"""The log: a line of JSON for each event, on standard output."""

import contextlib
import datetime as dt
import json
from typing import Any


def log(event: str, **more: Any) -> None:
    """Write a line; where standard output takes none, nothing else stops."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError, ValueError):
        print(json.dumps({"time": now, "event": event, **more}), flush=True)
