"""The Open Bandit Dataset (ZOZO): <policy>/<campaign>/<campaign>.csv with the item_context.csv beside it.

<campaign>.csv     (index),timestamp,item_id,position,click,propensity_score,user_feature_0,…,
                   user-item_affinity_0,… with one affinity for each item of the campaign.
item_context.csv   (index),item_id,item_feature_0,… (may be absent)

Both are comma with a header whose first name is empty. `timestamp` ("2019-11-24 00:00:17.004101+00:00") is
read as a time, to the microsecond; `propensity_score` is the probability with which the policy chose the item. Parquet and
Arrow files with these columns are read too.
"""

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from recsys_pipelines.sources.base import existing_file
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place
from recsys_pipelines.sources.table import open_file

NAMES = ("timestamp", "item_id", "position", "click", "propensity_score")
BESIDE = ("item_context.csv",)
TIME = "%Y-%m-%d %H:%M:%S%.f%:z"


class OpenBandit(Joined):
    """The rows of a campaign's file, `path`."""

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        path = existing_file(path)
        file = open_file(path)
        file.require(NAMES if labelled else ("item_id", "position"))
        times = {
            name: Derivation(name, _time, "not a time such as 2019-11-24 00:00:17.004101+00:00")
            for name in file.schema.names
            if name == "timestamp"
        }
        items = [path.parent / name for name in BESIDE]
        super().__init__(
            Derived(file, times), [("item_id", open_file(file)) for file in items if file.exists()]
        )


def _time(text: pa.Array) -> pa.Array:
    if pt.is_timestamp(text.type):
        return text
    times = pl.Series(pl.from_arrow(text), dtype=pl.String).str.to_datetime(
        TIME, time_unit="us", strict=False
    )
    return pc.cast(times.to_arrow(), pa.timestamp("us"))
