"""The checked log of actions that off-policy evaluation starts from.

Symbols: n rows, A actions, P positions.
Bad input raises ValueError, which names the source, the row, the column and the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

ALL = "all"
COLUMNS = {name: name for name in ("action", "reward", "propensity", "position", "user", "row_id")}


@dataclass(frozen=True)
class Rows:
    """The rows of a source by their numbers [n] there, which a message can name.

    Attributes:
        source: Name of the source, such as that of a file.
        numbers: Number of each row in the source, from 0.
        first_line: Line of row 0 in a text file; None of a source without lines.
    """

    source: str
    numbers: np.ndarray
    first_line: int | None = None

    def place(self, i: int, row_id: object = None) -> str:
        """Return where row i stands in the source, with its row id where that is not its number."""
        number = self.numbers[i]
        details = [] if self.first_line is None else [f"line {number + self.first_line}"]
        if row_id is not None and str(row_id) != str(number):
            details.append(f"row id {row_id}")
        return f"{self.source}: row {number}" + (f" ({', '.join(details)})" if details else "")


@dataclass(frozen=True)
class Log:
    """A checked log, which `bandit_log` makes. Codes number the sorted names; arrays have one entry per row.

    `numbers` are those of the rows in the source, for messages. `clusters` is None where rows are independent.
    """

    actions: np.ndarray
    rewards: np.ndarray
    propensities: np.ndarray
    positions: np.ndarray
    clusters: np.ndarray | None
    row_ids: np.ndarray
    numbers: np.ndarray
    action_names: np.ndarray
    position_names: np.ndarray
    source: str = "log"
    columns: Mapping[str, str] = field(default_factory=lambda: COLUMNS)
    first_line: int | None = None

    @property
    def rows(self) -> int:
        """Return the number of rows n."""
        return int(self.actions.size)

    def counts(self) -> np.ndarray:
        """Count rows by position and action: intp [P, A]."""
        shape = len(self.position_names), len(self.action_names)
        cells = self.positions * shape[1] + self.actions
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    def place(self, i: int) -> str:
        """Return where row i comes from, for messages."""
        return Rows(self.source, self.numbers, self.first_line).place(i, self.row_ids[i])


def bandit_log(
    actions: ArrayLike,
    rewards: ArrayLike,
    propensities: ArrayLike | None,
    positions: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    row_ids: ArrayLike | None = None,
    *,
    source: str = "log",
    numbers: ArrayLike | None = None,
    columns: Mapping[str, str] = COLUMNS,
    first_line: int | None = None,
) -> Log:
    """Check a log of n rows: the action taken, its reward, and the probability with which the logging policy took it.

    Args:
        actions: Action of each row [n], of any sortable type.
        rewards: Reward of each row [n].
        propensities: Probability of each logged action [n], within (0, 1].
        positions: Position of each row in its slate [n]; None where there is one.
        clusters: Ids [n] of what rows depend on, such as their user; None where rows are independent.
        row_ids: Names of the rows [n]; their numbers unless given.
        source: Name of the log in messages.
        numbers: Numbers of the rows in the source [n]; 0..n-1 unless given.
        columns: Names of the columns in the source, by role.
        first_line: Line of row 0 in a text file; None of a source without lines.

    Raises:
        ValueError: Propensities are missing or outside (0, 1], rewards missing or infinite, ids missing or repeated,
            there is one action, reward or cluster only, or shapes do not fit.
    """
    if propensities is None:
        raise ValueError(
            f"{source}: has no column {columns['propensity']!r}: without the probability with which each action was "
            "taken nothing can be said of another policy; log it, or run a randomised test"
        )
    shape = np.shape(actions)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"{source}: actions have shape {shape}: give one per row, for at least one row")
    n = shape[0]
    rows = Rows(source, np.arange(n) if numbers is None else np.asarray(numbers), first_line)
    action_names, action_codes = _coded(actions, columns["action"], rows)
    position_names, position_codes = np.array([ALL]), np.zeros(n, np.intp)
    if positions is not None:
        position_names, position_codes = _coded(positions, columns["position"], rows)
    log = Log(
        actions=action_codes,
        rewards=_column(rewards, columns["reward"], rows).astype(np.float64),
        propensities=_column(propensities, columns["propensity"], rows).astype(np.float64),
        positions=position_codes,
        clusters=None if clusters is None else _coded(clusters, columns["user"], rows)[1],
        row_ids=rows.numbers if row_ids is None else _column(row_ids, columns["row_id"], rows),
        numbers=rows.numbers,
        action_names=action_names,
        position_names=position_names,
        source=source,
        columns=columns,
        first_line=first_line,
    )
    return _checked(log)


def sorted_codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values in their order, and the code of each of `values` [n].

    Texts that all write integers are in the order of these, so that text files and others have the same codes.
    """
    if values.dtype.kind not in "OU":
        return np.unique(values, return_inverse=True)
    texts = pl.Series(values)
    if texts.dtype != pl.String:
        return np.unique(values, return_inverse=True)
    names = texts.unique().sort()
    integers = names.cast(pl.Int64, strict=False)
    if not integers.has_nulls():
        names = pl.DataFrame({"name": names, "integer": integers}).sort("integer", "name")["name"]
    order = pl.DataFrame({"name": names, "code": np.arange(len(names))})
    codes = pl.DataFrame({"name": texts}).join(order, on="name", how="left", maintain_order="left")["code"]
    return names.to_numpy(), codes.to_numpy()


def _checked(log: Log) -> Log:
    _check_values(log)
    _check_row_ids(log)
    _check_variety(log)
    return log


def _check_values(log: Log) -> None:
    """Refuse propensities outside (0, 1] and rewards that are not finite."""
    bad = ~((log.propensities > 0) & (log.propensities <= 1))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{log.place(i)}: {log.columns['propensity']} is {log.propensities[i]}: an action that was taken had a "
            "probability within (0, 1]"
        )
    bad = ~np.isfinite(log.rewards)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{log.place(i)}: {log.columns['reward']} is {log.rewards[i]}: rewards must be finite numbers"
        )


def _check_row_ids(log: Log) -> None:
    """Refuse a row id that occurs twice."""
    ids, codes = sorted_codes(log.row_ids)
    times = np.bincount(codes)
    if (times > 1).any():
        j = int((times > 1).argmax())
        first = int((codes == j).argmax())
        raise ValueError(
            f"{log.place(first)}: {log.columns['row_id']} {ids[j]} occurs {times[j]} times: each row counts once"
        )


def _check_variety(log: Log) -> None:
    """Refuse a log whose rows all have the same action, reward or user."""
    names = log.columns
    if len(log.action_names) < 2:
        raise ValueError(
            f"{log.source}: {names['action']} is {log.action_names[0]} in every row: a log with one action only says "
            "nothing of a policy that chooses"
        )
    if (log.rewards == log.rewards[0]).all():
        raise ValueError(
            f"{log.source}: {names['reward']} is {log.rewards[0]:g} in every row: no error can be estimated, use more rows"
        )
    if log.clusters is not None and not log.clusters.any():
        raise ValueError(f"{log.source}: all rows have one {names['user']}: there is nothing to resample")


def _column(values: ArrayLike, name: str, rows: Rows) -> np.ndarray:
    """Return a column as an array, which must have an entry per row."""
    array, count = np.asarray(values), rows.numbers.size
    if array.shape != (count,):
        raise ValueError(f"{rows.source}: {name} has shape {array.shape}: the log has {count} rows")
    return array


def _coded(column: ArrayLike, name: str, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a column in sorted order, and the code of each row; refuse missing ones."""
    values = _column(column, name, rows)
    missing = np.asarray(values != values)
    if values.dtype == object:
        missing |= np.asarray(values == None)  # noqa: E711 (element by element)
    if missing.any():
        i = int(missing.argmax())
        raise ValueError(f"{rows.place(i)}: {name} is {values[i]}: drop the row, or fill it in")
    return sorted_codes(values)
