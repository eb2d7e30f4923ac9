"""The log: a line of JSON for each event, on standard output."""

import contextlib
import datetime as dt
import json
import sys
from typing import Any


def log(event: str, **more: Any) -> None:
    """Write a line; where standard output takes none, nothing else stops."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **more})
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(f"{line}\n")  # in one piece, for other threads and processes write here too
        sys.stdout.flush()
