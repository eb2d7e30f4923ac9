"""Read logs of interleaved lists, in any format of the table source: a row for each shown item, columns named or guessed.

impression (or session), position, item, team, click, and where there is such: user (impressions of one are dependent)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from recsys.evaluation.off_policy.data import sorted_codes
from recsys.evaluation.online.interleaving import InterleavedLog
from recsys.policies.log import NUMBER, column_named, numbers_of, read_table, refuse_missing

GUESSES: dict[str, tuple[str, ...]] = {
    "impression": ("impression", "impression_id", "session", "session_id"),
    "position": ("position", "rank"),
    "item": ("item", "item_id"),
    "team": ("team", "ranker"),
    "click": ("click", "label"),
    "user": ("user", "user_id"),
}
REQUIRED = ("impression", "position", "item", "team", "click")


def read_interleaved(
    path: Path, columns: Mapping[str, str | None] | None = None, teams: tuple[str, str] | None = None
) -> InterleavedLog:
    """Read and check a log of team drafts. `columns`: names by role, guessed where None; `teams`: which is the first and
    which the second, by name where None.

    Errors (ValueError), which name file, row and value: no such file or column, no rows, missing values, clicks other than
    0 and 1, a third team or one only, a position or an item twice in an impression, an impression of two users, one user
    or impression only, no click at all. Rows count from 0, without the header.
    """
    frame = read_table(path)
    names = {
        role: column_named(frame, role, (columns or {}).get(role), path, GUESSES, REQUIRED)
        for role in GUESSES
    }
    used = {role: frame[name] for role, name in names.items() if name is not None}
    rows = np.arange(len(frame))
    for column in used.values():
        refuse_missing(column, rows, path.name)
    clicks = numbers_of(used["click"], rows, path.name)
    _refuse(path, (clicks != 0) & (clicks != 1), used["click"], "a click is 0 or 1")
    positions = numbers_of(used["position"], rows, path.name)
    _refuse(path, ~np.isfinite(positions), used["position"], "a position is a number")
    frame = pl.DataFrame({**used, "position": positions}).with_row_index(NUMBER)
    for role in ("position", "item"):
        twice = frame.filter(~pl.struct("impression", role).is_first_distinct())
        if len(twice):
            row = twice.row(0, named=True)
            raise ValueError(
                f"{path.name}: row {row[NUMBER]}: {names['impression']} {row['impression']} has {names[role]} "
                f"{used[role][row[NUMBER]]} twice: a list has one item at each place, and each item once"
            )
    team_codes, team_names = _teams(frame["team"].cast(pl.String), teams, path, str(names["team"]))
    impressions = sorted_codes(used["impression"].to_numpy())[1]
    if not impressions.any():
        raise ValueError(f"{path.name}: has one impression only: no error can be estimated, use more lists")
    places, position_codes = np.unique(positions, return_inverse=True)
    if not clicks.any():
        raise ValueError(
            f"{path.name}: {names['click']} is 0 in every row: nobody prefers anything, use more rows"
        )
    return InterleavedLog(
        impressions=impressions,
        positions=position_codes,
        teams=team_codes,
        clicks=clicks,
        users=_users(frame, impressions, path, names) if "user" in used else None,
        team_names=team_names,
        position_names=tuple(f"{place:g}" for place in places),
        source=path.name,
    )


def _refuse(path: Path, bad: np.ndarray, column: pl.Series, why: str) -> None:
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"{path.name}: row {i}: {column.name} is {column[i]}: {why}")


def _teams(
    column: pl.Series, wanted: tuple[str, str] | None, path: Path, name: str
) -> tuple[np.ndarray, tuple[str, str]]:
    """Code of each row's team, and the names of both."""
    found = column.unique(maintain_order=True).to_list()
    known = list(wanted) if wanted is not None else sorted(found[:2])
    if len(set(known)) < 2:
        raise ValueError(
            f"{path.name}: {name} is {known[0]} alone: interleaving needs the items of two rankers"
        )
    codes = np.select([column.to_numpy() == team for team in known], [0, 1], -1)
    if (codes < 0).any():
        i = int((codes < 0).argmax())
        raise ValueError(
            f"{path.name}: row {i}: {name} is {column[i]}, neither {known[0]} nor {known[1]}: a draft has two teams"
        )
    for team in known:
        if team not in found:
            raise ValueError(f"{path.name}: no row has {name} {team}, but {', '.join(map(str, found))}")
    return codes, (known[0], known[1])


def _users(
    frame: pl.DataFrame, impressions: np.ndarray, path: Path, names: Mapping[str, str | None]
) -> np.ndarray:
    """Code of each impression's user [I]."""
    users = sorted_codes(frame["user"].to_numpy())[1]
    if not users.any():
        raise ValueError(
            f"{path.name}: all rows have one {names['user']}: nothing can be said of others, use a log of more users"
        )
    first = np.unique(impressions, return_index=True)[1]
    other = users != users[first][impressions]
    if other.any():
        i = int(other.argmax())
        raise ValueError(
            f"{path.name}: row {i}: {names['impression']} {frame['impression'][i]} has {names['user']} "
            f"{frame['user'][i]}, and {frame['user'][int(first[impressions[i]])]} before: an impression is one user's"
        )
    return users[first]
