"""What is known of published logs besides their columns: label, order of rows, and what is not known of a new row."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

OUTCOME = "is known only after the label"


@dataclass(frozen=True)
class Known:
    """Roles of columns, and the columns that no feature reads, each with the reason.

    `numbers` are columns of counts, whatever they look like.
    """

    label: str | None = None
    user: str | None = None
    time: str | None = None
    weight: str | None = None
    in_order: bool = False  # rows stand in the order of time
    left_out: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()

    def time_in(self, columns: Collection[str]) -> str | None:
        """Return the column that orders rows, if it is one of these."""
        return self.time if self.time in columns else None


_CRITEO = Known(label="label", in_order=True, numbers=tuple(f"i{n}" for n in range(1, 14)))

KNOWN: dict[str, Known] = {
    **dict.fromkeys(("criteo", "criteo_1tb", "criteo_x4", "criteo_x1"), _CRITEO),
    "avazu": Known(
        label="click",
        in_order=True,
        left_out={"hour": "is in hour_of_day, weekday and weekend", "id": "numbers rows"},
    ),
    "taobao_ad": Known(
        label="clk", user="user", time="time_stamp", left_out={"nonclk": "is the label's opposite"}
    ),
    "taobao_behavior": Known(
        label="buy",
        user="user_id",
        time="timestamp",
        left_out=dict.fromkeys(("behavior", "pv", "cart", "fav"), "says what the label says"),
    ),
    "kdd12": Known(
        label="clicked",
        user="user_id",
        weight="weight",
        left_out=dict.fromkeys(("click", "impression"), "is in the label and its weight"),
    ),
    "open_bandit": Known(
        label="click",
        time="timestamp",
        left_out={"propensity_score": "is the logging policy's, not a new row's"},
    ),
    "kuairec": Known(
        label="watch_ratio",
        user="user_id",
        time="timestamp",
        left_out={"play_duration": OUTCOME, "time": "is in timestamp", "date": "is in timestamp"},
    ),
}
