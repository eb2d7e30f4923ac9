"""Avazu's click log: train.csv and test.csv (no click) with the published header; plain, .gz or .zst.

`hour` is YYMMDDHH. Three columns derived from it can be asked for too: hour_of_day (0 to 23), weekday
(0 is Monday) and weekend (0 or 1); they are strings, as everything read from text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, read_files, require
from recsys_pipelines.sources.delimited import COMMA, DelimitedFile

FEATURES = (
    *("hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)
DERIVED = {
    "hour_of_day": pc.hour,
    "weekday": pc.day_of_week,
    "weekend": lambda time: pc.greater_equal(pc.day_of_week(time), 5).cast(pa.int8()),
}


class Avazu:
    """`columns` are the header's (`id` is of no use to a model) and `DERIVED`."""

    columns: tuple[str, ...]

    def __init__(self, path: str | Path, *, labelled: bool = True) -> None:
        self._file = DelimitedFile(path, COMMA)
        require(("click", *FEATURES) if labelled else FEATURES, self._file.names, path)
        self.columns = (*self._file.names, *DERIVED)

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """As `Source.chunks`."""
        require(columns, self.columns, self._file.path)
        columns = list(dict.fromkeys(columns))
        derived = [name for name in columns if name in DERIVED]
        stored = [name for name in columns if name not in DERIVED]
        if not derived:
            return read_files([self._file], stored, quarantine)
        chunks = read_files([self._file], [*stored, "hour"], quarantine)
        return (_with_derived(chunk, columns, derived, quarantine) for chunk in chunks)


def _with_derived(chunk: Chunk, columns: Sequence[str], derived: list[str], quarantine: Quarantine) -> Chunk:
    hour = chunk.table["hour"].combine_chunks()
    digits = pc.match_substring_regex(hour, r"^\d{8}$")  # strptime alone would take 7 of them
    hour_or_null = pc.if_else(digits, hour, pa.scalar(None, pa.string()))
    time = pc.strptime(hour_or_null, format="%y%m%d%H", unit="s", error_is_null=True)
    bad = np.asarray(pc.and_not(hour.is_valid(), time.is_valid()))
    chunk.report(bad, "hour", hour, "not YYMMDDHH", quarantine)
    table = chunk.table
    for name in derived:
        table = table.append_column(name, DERIVED[name](time).cast(pa.string()))
    return Chunk(table.select(columns), chunk.rows, chunk.file, chunk.lines).keep(~bad)
