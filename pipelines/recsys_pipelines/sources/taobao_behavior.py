"""Taobao's UserBehavior.csv: comma, no header; user, item, category, behaviour and Unix seconds; 100,150,807 rows.

`behavior` is pv, cart, fav or buy; a row with another goes to quarantine where it matters. Each of the four can be
asked for as a column too, 1 where it is the row's behaviour and 0 elsewhere: `label: {column: buy}` tells purchases
from the rest. The published log is sorted by user, and some times lie outside its nine days of 2017.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import COMMA
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place

NAMES = ("user_id", "item_id", "category_id", "behavior", "timestamp")
BEHAVIORS = ("pv", "cart", "fav", "buy")


class TaobaoBehavior(Joined):
    """The actions of one file, `path`, plain, .gz or .zst."""

    columns: tuple[str, ...] = (*NAMES, *BEHAVIORS)

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        made = {name: Derivation("behavior", _is(name), "not pv, cart, fav or buy") for name in BEHAVIORS}
        super().__init__(Derived(DelimitedFile(path, COMMA, NAMES), made))


def _is(name: str) -> Callable[[pa.Array], pa.Array]:
    def function(behavior: pa.Array) -> pa.Array:
        known = pc.is_in(behavior, value_set=pa.array(BEHAVIORS))
        return pc.if_else(known, pc.equal(behavior, name).cast(pa.int8()).cast(pa.string()), None)

    return function
