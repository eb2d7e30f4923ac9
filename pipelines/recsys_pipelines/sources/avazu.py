"""Avazu's click log: train.csv and test.csv (no click) with the published header; plain, .gz or .zst.

`hour` is YYMMDDHH. Three columns derived from it can be asked for too: hour_of_day (0 to 23), weekday
(0 is Monday) and weekend (0 or 1); they are strings, as everything read from text.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import COMMA
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place

FEATURES = (
    *("hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)


def _of_hour(part: Callable[[pa.Array], pa.Array]) -> Derivation:
    """Derive a part of the time that `hour` names, as text."""

    def function(hour: pa.Array) -> pa.Array:
        digits = pc.match_substring_regex(hour, r"^\d{8}$")  # strptime alone would take 7 of them
        hour_or_null = pc.if_else(digits, hour, pa.scalar(None, pa.string()))
        time = pc.strptime(hour_or_null, format="%y%m%d%H", unit="s", error_is_null=True)
        return part(time).cast(pa.string())

    return Derivation("hour", function, "not YYMMDDHH")


DERIVED = {
    "hour_of_day": _of_hour(pc.hour),
    "weekday": _of_hour(pc.day_of_week),
    "weekend": _of_hour(lambda time: pc.greater_equal(pc.day_of_week(time), 5).cast(pa.int8())),
}


class Avazu(Joined):
    """A log whose columns are the header's (`id` is of no use to a model) and `DERIVED`."""

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        file = DelimitedFile(path, COMMA)
        file.require(("click", *FEATURES) if labelled else FEATURES)
        super().__init__(Derived(file, DERIVED))
