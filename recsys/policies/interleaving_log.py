"""Read logs of interleaved lists, in any format of the table source: a row for each shown item, columns named or guessed.

impression (or session), position, item, team, click, and where there is such: user (impressions of one are dependent)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from recsys.evaluation.off_policy.log import sorted_codes
from recsys.evaluation.online.interleaving import InterleavedLog
from recsys.policies.log import column_named, numbers_of, read_table, refuse_missing, rows_of

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
    path: Path | str, columns: Mapping[str, str | None] | None = None, teams: tuple[str, str] | None = None
) -> InterleavedLog:
    """Read and check a log of team drafts. Rows count from 0, without the header.

    Args:
        path: The file.
        columns: Names of columns by role, guessed where None.
        teams: Which team is the first and which the second; by name where None.

    Raises:
        ValueError: There is no such file or column, no rows, a missing value, a click other than 0 and 1, a third team or
            one only, a position or an item twice in an impression, an impression of two users, one user or impression
            only, or no click at all; file, row and value are named.
    """
    path = Path(path)
    frame = read_table(path)
    names = {
        role: column_named(frame, role, (columns or {}).get(role), path, GUESSES, REQUIRED)
        for role in GUESSES
    }
    log = _LogFile({role: frame[name] for role, name in names.items() if name is not None}, path, len(frame))
    log.refuse_repeats()
    team_codes, team_names = log.teams(teams)
    impressions = log.impressions()
    places, position_codes = np.unique(log.positions, return_inverse=True)
    if not log.clicks.any():
        raise ValueError(
            f"{path.name}: {names['click']} is 0 in every row: nobody prefers anything, use more rows"
        )
    return InterleavedLog(
        impressions=impressions,
        positions=position_codes,
        teams=team_codes,
        clicks=log.clicks,
        users=log.users(impressions) if "user" in log.columns else None,
        team_names=team_names,
        position_names=tuple(f"{place:g}" for place in places),
        source=path.name,
    )


class _LogFile:
    """The columns of a log of team drafts by role, complete, and its clicks and positions as numbers [n]."""

    def __init__(self, columns: Mapping[str, pl.Series], path: Path, count: int) -> None:
        self.columns, self._name = columns, path.name
        self._rows = rows_of(path, np.arange(count))
        for column in columns.values():
            refuse_missing(column, self._rows)
        self.clicks = numbers_of(columns["click"], self._rows)
        self._refuse((self.clicks != 0) & (self.clicks != 1), "click", "a click is 0 or 1")
        self.positions = numbers_of(columns["position"], self._rows)
        self._refuse(~np.isfinite(self.positions), "position", "a position is a number")

    def refuse_repeats(self) -> None:
        """Refuse a list that has a position or an item twice."""
        frame = pl.DataFrame({**self.columns, "position": self.positions})
        for role in ("position", "item"):
            repeats = ~frame.select(pl.struct("impression", role)).to_series().is_first_distinct()
            if repeats.any():
                i = int(repeats.arg_max() or 0)
                raise ValueError(
                    f"{self._rows.place(i)}: {self._value('impression', i)} has {self._value(role, i)} twice: "
                    "a list has one item at each place, and each item once"
                )

    def teams(self, names: tuple[str, str] | None) -> tuple[np.ndarray, tuple[str, str]]:
        """Return the code of each row's team, and the names of both teams, which are `names` where those are given."""
        column = self.columns["team"].cast(pl.String)
        present = column.unique(maintain_order=True).to_list()
        known = list(names) if names is not None else sorted(present[:2])
        if len(set(known)) < 2:
            raise ValueError(
                f"{self._name}: {column.name} is {known[0]} alone: interleaving needs the items of two rankers"
            )
        codes = np.select([column.to_numpy() == team for team in known], [0, 1], -1)
        if (codes < 0).any():
            i = int((codes < 0).argmax())
            raise ValueError(
                f"{self._rows.place(i)}: {column.name} is {column[i]}, neither {known[0]} nor {known[1]}: "
                "a draft has two teams"
            )
        for team in known:
            if team not in present:
                raise ValueError(
                    f"{self._name}: no row has {column.name} {team}, but {', '.join(map(str, present))}"
                )
        return codes, (known[0], known[1])

    def impressions(self) -> np.ndarray:
        """Return the code of each row's impression."""
        codes = sorted_codes(self.columns["impression"].to_numpy())[1]
        if not codes.any():
            raise ValueError(
                f"{self._name}: has one impression only: no error can be estimated, use more lists"
            )
        return codes

    def users(self, impressions: np.ndarray) -> np.ndarray:
        """Return the code of each impression's user [I]."""
        column = self.columns["user"]
        users = sorted_codes(column.to_numpy())[1]
        if not users.any():
            raise ValueError(
                f"{self._name}: all rows have one {column.name}: nothing can be said of others, use a log of more users"
            )
        first = np.unique(impressions, return_index=True)[1]
        other = users != users[first][impressions]
        if other.any():
            i = int(other.argmax())
            raise ValueError(
                f"{self._rows.place(i)}: {self._value('impression', i)} has {self._value('user', i)}, and "
                f"{column[int(first[impressions[i]])]} before: an impression is one user's"
            )
        return users[first]

    def _value(self, role: str, i: int) -> str:
        """Return name and value of a column in row i."""
        return f"{self.columns[role].name} {self.columns[role][i]}"

    def _refuse(self, bad: np.ndarray, role: str, reason: str) -> None:
        if bad.any():
            i = int(bad.argmax())
            column = self.columns[role]
            raise ValueError(f"{self._rows.place(i)}: {column.name} is {column[i]}: {reason}")
