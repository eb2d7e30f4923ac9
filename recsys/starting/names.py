"""What the name of a column says: words are told apart by capitals, digits and whatever is no letter."""

import re


def _known(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABEL = _known(
    "click clicked clicks clk label target conversion converted cvr purchase purchased buy bought install installed liked "
    "response outcome y"
)
BEST_LABEL = frozenset({"label", "target", "y"})
RATING = _known("rating ratings stars star score overall ratio")
USER = (
    _known("user uid userid"),
    _known("visitor customer member reviewer client account buyer viewer listener"),
)
ITEM = _known(
    "item itemid iid product movie video ad adgroup article news song track book app game sku asin listing hotel poi "
    "creative recipe restaurant business"
)
TIME = _known("time timestamp ts datetime date day hour unixtime")
ID = _known(
    "id ids code zip postcode postal key cat category cate type kind brand campaign site device class segment group tag "
    "region country city state lang language os browser hash position rank slot"
)
QUANTITY = _known(
    "count counts cnt num number price cost amount age duration length ratio rate ctr score mean avg sum total days hours "
    "minutes seconds weight size width height distance qty quantity income balance views"
)
SPLIT = _known("train training valid validation val dev test holdout")
ROW_NUMBER = _known("row rowid index idx unnamed")
PROPENSITY = _known("propensity pscore")

_PLAIN = _known("id ids key no num number hash hashed uuid guid code anon anonymous encrypted")
_LABEL_PLAIN = _known("is has was did flag yn bool binary ad item product movie")
_TIME_PLAIN = _known("event impression click log request unix utc server epoch created at of s ms sec millis")


def words(name: str) -> list[str]:
    """Return the words of a name in small letters, without numbers."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[\W\d_]+", parted.lower()) if word]


def _is_called(name: str, known: frozenset[str], plain: frozenset[str]) -> bool:
    """Tell whether a name has one of the known words, and otherwise only plain ones."""
    parts = words(name)
    return any(word in known for word in parts) and all(word in known or word in plain for word in parts)


def is_label(name: str) -> bool:
    """Tell whether a name is that of a label: click, is_clicked, target."""
    return _is_called(name, LABEL, _LABEL_PLAIN)


def is_rating(name: str) -> bool:
    """Tell whether a name is that of a rating: stars, watch_ratio."""
    return _is_called(name, RATING, frozenset(("watch", "user", "review")))


def user_rank(name: str) -> int | None:
    """Return 0 for the name of a user, 1 for that of a visitor, a customer and the like, None for any other."""
    for rank, known in enumerate(USER):
        if _is_called(name, known, _PLAIN):
            return rank
    return None


def is_item(name: str) -> bool:
    """Tell whether a name is that of an item: item_id, movieId."""
    return _is_called(name, ITEM, _PLAIN)


def is_time(name: str) -> bool:
    """Tell whether a name is that of the time of an event: ts, event_time."""
    return _is_called(name, TIME, _TIME_PLAIN)


def is_row_number(name: str) -> bool:
    """Tell whether a name is that of a row's number: row, idx, Unnamed: 0."""
    return _is_called(name, ROW_NUMBER, _PLAIN)


def has_word(name: str, known: frozenset[str]) -> bool:
    """Tell whether a name has one of the known words."""
    return any(word in known for word in words(name))
