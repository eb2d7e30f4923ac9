"""What Prometheus is told of all workers: each writes its numbers into files of one folder, and any of them adds up.

The folder is named by PROMETHEUS_MULTIPROC_DIR before this module is imported (`processes.serve`); without it the numbers
are of this process.
"""

import os
from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_own = CollectorRegistry()
_requests = Counter("recsys_requests", "Requests by path and status", ["path", "status"], registry=_own)
_seconds = Histogram(
    "recsys_request_seconds",
    "Seconds from a request's headers to the end of its answer",
    ["path"],
    buckets=_SECONDS,
    registry=_own,
)
_rows = Counter("recsys_rows", "Rows that were answered, by version", ["version"], registry=_own)
_missing = Counter("recsys_missing_values", "Values that were missing", ["feature"], registry=_own)
_unknown = Counter("recsys_unknown_ids", "Ids outside the vocabulary", ["feature"], registry=_own)


def count_request(path: str, status: int, seconds: float) -> None:
    """Count a request that has been answered."""
    _requests.labels(path, str(status)).inc()
    _seconds.labels(path).observe(seconds)


def count_rows(version: str, rows: int) -> None:
    """Count rows that a version has answered."""
    _rows.labels(version).inc(rows)


def count_values(missing: Mapping[str, int], unknown: Mapping[str, int]) -> None:
    """Count values that were missing and ids that are unknown, by feature."""
    for counter, counts in ((_missing, missing), (_unknown, unknown)):
        for feature, count in counts.items():
            counter.labels(feature).inc(count)


def exposition() -> tuple[bytes, str]:
    """Return the numbers of all workers as Prometheus reads them, and their media type."""
    registry = _own
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
