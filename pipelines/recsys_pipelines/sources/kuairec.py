"""KuaiRec: big_matrix.csv or small_matrix.csv with what the files beside it say of users and videos.

<size>_matrix.csv     user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio; durations
                      are milliseconds and timestamp Unix seconds with a fraction. 12,530,806 rows (big), and 4,676,570
                      (small), some of which lack time, date and timestamp.
user_features.csv     user_id,user_active_degree,…,onehot_feat17
item_categories.csv   video_id,feat with lists such as "[27, 9]"
social_network.csv    user_id,friend_list with lists

All are comma with a header; the last three may be absent. `timestamp` is read as a time, to the microsecond, and
lists as lists of text. There is no click: the label is `watch_ratio` with a threshold, and `play_duration` tells it.
"""

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.sources.base import existing_file
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import COMMA
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place
from recsys_pipelines.sources.text import bracketed

MATRIX = (
    *("user_id", "video_id", "play_duration", "video_duration", "time", "date", "timestamp"),
    "watch_ratio",
)
LISTS = ("feat", "friend_list")
BESIDE = {  # file -> the column it shares with the matrix
    "user_features.csv": "user_id",
    "item_categories.csv": "video_id",
    "social_network.csv": "user_id",
}


class KuaiRec(Joined):
    """The rows of one of the two matrices, `path`."""

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        path = existing_file(path)
        matrix = DelimitedFile(path, COMMA)
        matrix.require(MATRIX if labelled else ("user_id", "video_id"))
        times = {
            name: Derivation(name, _time, "not Unix seconds")
            for name in matrix.schema.names
            if name == "timestamp"
        }
        beside = {path.parent / name: key for name, key in BESIDE.items()}
        super().__init__(
            Derived(matrix, times), [(key, _open(side)) for side, key in beside.items() if side.exists()]
        )


def _open(path: Place) -> Derived:
    file = DelimitedFile(path, COMMA)
    derivations = {
        name: Derivation(name, bracketed, "not a list in brackets")
        for name in LISTS
        if name in file.schema.names
    }
    return Derived(file, derivations)


def _time(seconds: pa.Array) -> pa.Array:
    numbers = pl.Series(pl.from_arrow(seconds), dtype=pl.String).cast(pl.Float64, strict=False)
    microseconds = (numbers * 1e6).round().cast(pl.Int64, strict=False).to_arrow()
    return pc.cast(microseconds, pa.timestamp("us"))
