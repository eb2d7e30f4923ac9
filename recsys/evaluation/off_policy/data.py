"""What off-policy evaluation starts from: a checked log and a target policy, and whether the one supports the other.

Symbols: n rows, A actions, P positions, M distinct distributions of the target over actions.
Bad input raises ValueError, which names the source, the row, the column and the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from recsys.evaluation.metrics import improper

SUM_TOLERANCE = 1e-6  # of probabilities over actions: text files round
ALL = "all"
COLUMNS = {name: name for name in ("action", "reward", "propensity", "position", "user", "row_id")}


@dataclass(frozen=True)
class Log:
    """A checked log: make it with `bandit_log`. Codes number the sorted names; arrays have one entry per row.

    `numbers`: row in the source, for messages. `clusters` is None where rows are independent.
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

    @property
    def rows(self) -> int:
        """Number of rows n."""
        return int(self.actions.size)

    def counts(self) -> np.ndarray:
        """Rows by position and action: intp [P, A]."""
        shape = len(self.position_names), len(self.action_names)
        cells = self.positions * shape[1] + self.actions
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    def place(self, i: int) -> str:
        """Where row i comes from, for messages."""
        number, row_id = self.numbers[i], self.row_ids[i]
        return f"{self.source}: row {number}" + (f" (row id {row_id})" if str(row_id) != str(number) else "")


@dataclass(frozen=True)
class Target:
    """A policy to be judged: `logged` [n], its probability of each logged action.

    `table` [M, A] and `index` [n]: row i has the distribution table[index[i]] over the log's actions. None where only
    `logged` is known: then no reward model can be averaged over the policy, and support cannot be checked.
    """

    name: str
    logged: np.ndarray
    table: np.ndarray | None = None
    index: np.ndarray | None = None

    def mass(self, log: Log) -> np.ndarray | None:
        """Sum over rows of the target's probability by position and action: float64 [P, A]."""
        if self.table is None or self.index is None:
            return None
        return grouped_mass(self.table, self.index, log.positions, len(log.position_names))


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
) -> Log:
    """Check a log of n rows: action taken, reward seen, probability with which the logging policy took the action.

    Errors (ValueError): no propensities, propensities outside (0, 1], rewards missing or infinite, repeated row ids,
    missing ids, one action only, one reward only, one cluster only, shapes that do not fit.
    """
    if propensities is None:
        raise ValueError(
            f"{source}: has no column {columns['propensity']!r}: without the probability with which each action was "
            "taken nothing can be said of another policy; log it, or run a randomised test"
        )
    taken = np.asarray(actions)
    if taken.ndim != 1 or taken.size == 0:
        raise ValueError(
            f"{source}: actions have shape {taken.shape}: give one per row, for at least one row"
        )
    n = taken.size
    places = np.arange(n) if numbers is None else np.asarray(numbers)
    ids = places if row_ids is None else _column(row_ids, n, "row_id", source, columns)
    action_names, action_codes = _coded(taken, "action", source, columns, places)
    position_names, position_codes = np.array([ALL]), np.zeros(n, np.intp)
    if positions is not None:
        given = _column(positions, n, "position", source, columns)
        position_names, position_codes = _coded(given, "position", source, columns, places)
    cluster_codes = None
    if clusters is not None:
        users = _column(clusters, n, "user", source, columns)
        _, cluster_codes = _coded(users, "user", source, columns, places)
    log = Log(
        actions=action_codes,
        rewards=_column(rewards, n, "reward", source, columns).astype(np.float64),
        propensities=_column(propensities, n, "propensity", source, columns).astype(np.float64),
        positions=position_codes,
        clusters=cluster_codes,
        row_ids=ids,
        numbers=places,
        action_names=action_names,
        position_names=position_names,
        source=source,
        columns=columns,
    )
    _check(log)
    return log


def uniform(log: Log) -> Target:
    """Each of the log's A actions with probability 1 / A."""
    size = len(log.action_names)
    table = np.full((1, size), 1 / size)
    return Target("uniform", np.full(log.rows, 1 / size), table, np.zeros(log.rows, np.intp))


def frequencies(log: Log, other: Log) -> Target:
    """Empirical frequencies of actions by position in another log: what its policy does, regardless of context.

    Actions and positions of both logs are the same where they are printed the same: one may hold text, one integers.

    This is that policy itself only if it ignores context. Errors: a position that `other` lacks, or actions that
    `log` lacks (it gives no support to them).
    """
    counts = other.counts()
    here = {name: code for code, name in enumerate(map(str, log.action_names.tolist()))}
    actions = [str(name) for name in other.action_names.tolist()]
    absent = [name for name in actions if name not in here]
    if absent:
        rows = counts[:, [name not in here for name in actions]].sum()
        raise ValueError(
            f"{log.source}: no support: {log.columns['action']} {_some(absent)} never occurs in it, but has "
            f"{rows / other.rows:.2%} of the rows of {other.source}; no reweighting can tell its reward"
        )
    there = {name: code for code, name in enumerate(map(str, other.position_names.tolist()))}
    positions = [str(name) for name in log.position_names.tolist()]
    missing = [name for name in positions if name not in there]
    if missing:
        raise ValueError(
            f"{other.source}: has no {other.columns['position']} {_some(missing)}, which {log.source} has: "
            "its policy is unknown there; leave these rows out"
        )
    table = np.zeros((len(log.position_names), len(log.action_names)))
    columns = [here[name] for name in actions]
    for code, name in enumerate(positions):
        table[code, columns] = counts[there[name]] / counts[there[name]].sum()
    name = f"frequencies of {other.source}"
    return Target(name, table[log.positions, log.actions], table, log.positions)


def probabilities(
    log: Log,
    logged: ArrayLike | None,
    table: ArrayLike | None = None,
    index: ArrayLike | None = None,
    *,
    name: str = "policy",
) -> Target:
    """A target by its probabilities: `logged` [n], or `table` [M, A] over the log's actions (`index` [n], M = n: none).

    Errors (ValueError): probabilities outside [0, 1] or NaN, rows that sum to more than 1, `logged` and `table` that
    disagree. A sum below 1 is mass on actions that the log does not have; `support` refuses it.
    """
    if table is None:
        if logged is None:
            raise ValueError(f"{name}: give probabilities of the logged actions, of all actions, or both")
        return Target(name, _proper(log, np.asarray(logged, np.float64), name))
    full = np.asarray(table, np.float64)
    rows = np.arange(log.rows) if index is None else np.asarray(index)
    if full.ndim != 2 or full.shape[1] != len(log.action_names) or rows.shape != (log.rows,):
        raise ValueError(
            f"{name}: probabilities have shape {full.shape}, index {rows.shape}: the log has {log.rows} rows and "
            f"{len(log.action_names)} actions"
        )
    if rows.min() < 0 or rows.max() >= len(full):
        raise ValueError(
            f"{name}: index runs from {rows.min()} to {rows.max()}, of {len(full)} distributions"
        )
    bad = improper(full)
    if bad.any():
        m, a = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(
            f"{name}: {_row_of(log, rows, int(m))}: probability of {log.action_names[a]} is {full[m, a]}: "
            "must be within [0, 1]"
        )
    sums = full.sum(axis=1)
    if (sums > 1 + SUM_TOLERANCE).any():
        highest = int(sums.argmax())
        raise ValueError(
            f"{name}: {_row_of(log, rows, highest)}: probabilities of all actions sum to {sums[highest]:.9g}: "
            "they must sum to 1"
        )
    own = full[rows, log.actions]
    if logged is not None:
        stated = _proper(log, np.asarray(logged, np.float64), name)
        off = np.abs(stated - own) > SUM_TOLERANCE
        if off.any():
            i = int(off.argmax())
            raise ValueError(
                f"{name}: {log.place(i)}: probability is {stated[i]}, but {own[i]} in the column of its action "
                f"{log.action_names[log.actions[i]]}: give one of the two"
            )
    return Target(name, own, full, rows)


def support(log: Log, target: Target) -> np.ndarray | None:
    """Share of the target's mass on (position, action) pairs that were logged: [P], None where it cannot be known.

    Errors (ValueError): some of the mass is on pairs that were never logged. Reweighting is blind to what happens
    there, so no estimate of the value exists (positivity; Owen 2013, section 9.1).
    """
    mass = target.mass(log)
    if not target.logged.any():
        raise ValueError(
            f"{log.source}: no overlap: {target.name} gives probability 0 to every logged action; "
            "it can only be judged on a log that has its actions"
        )
    if mass is None:
        return None
    counts = log.counts()
    rows = counts.sum(axis=1)
    lost = np.where(counts == 0, mass, 0.0)
    beyond = rows - mass.sum(axis=1)
    if (beyond > SUM_TOLERANCE * rows).any():
        p = int((beyond / rows).argmax())
        raise ValueError(
            f"{log.source}: no support: at position {log.position_names[p]} the probabilities of {target.name} over "
            f"the log's actions sum to {1 - beyond[p] / rows[p]:.6g} on average; the rest is on actions that were "
            "never logged, and no reweighting can tell their reward"
        )
    if (lost > 0).any():
        worst, a = divmod(int((lost / rows[:, None]).argmax()), lost.shape[1])
        raise ValueError(
            f"{log.source}: no support: {log.columns['action']} {log.action_names[a]} was never logged at position "
            f"{log.position_names[worst]}, but {target.name} shows it there with probability "
            f"{lost[worst, a] / rows[worst]:.4g}; "
            f"{lost.sum() / log.rows:.2%} of its mass, {int((lost > 0).sum())} pairs of position and action, cannot be "
            "judged: use a longer log, or a policy within the logged actions"
        )
    return 1 - lost.sum(axis=1) / rows


def grouped_mass(table: np.ndarray, index: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Σ of table[index[i]] over the rows of each group: [groups, A]."""
    out = np.empty((groups, table.shape[1]))
    for g in range(groups):
        out[g] = np.bincount(index[group == g], minlength=len(table)) @ table
    return out


def _check(log: Log) -> None:
    names = log.columns
    bad = ~((log.propensities > 0) & (log.propensities <= 1))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{log.place(i)}: {names['propensity']} is {log.propensities[i]}: an action that was taken had a "
            "probability within (0, 1]"
        )
    bad = ~np.isfinite(log.rewards)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"{log.place(i)}: {names['reward']} is {log.rewards[i]}: rewards must be finite numbers"
        )
    ids, codes = sorted_codes(log.row_ids)
    times = np.bincount(codes)
    if (times > 1).any():
        j = int((times > 1).argmax())
        first = int((codes == j).argmax())
        raise ValueError(
            f"{log.place(first)}: {names['row_id']} {ids[j]} occurs {times[j]} times: each row counts once"
        )
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


def _column(values: ArrayLike, rows: int, role: str, source: str, columns: Mapping[str, str]) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (rows,):
        raise ValueError(f"{source}: {columns[role]} has shape {array.shape}: the log has {rows} rows")
    return array


def _coded(
    values: np.ndarray, role: str, source: str, columns: Mapping[str, str], numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in sorted order, and the code of each row."""
    missing = np.asarray(values != values)
    if values.dtype == object:
        missing |= np.asarray(values == None)  # noqa: E711 (element by element)
    if missing.any():
        i = int(missing.argmax())
        raise ValueError(
            f"{source}: row {numbers[i]}: {columns[role]} is {values[i]}: drop the row, or fill it in"
        )
    return sorted_codes(values)


def sorted_codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in their order, and the code of each of `values` [n].

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


def _proper(log: Log, logged: np.ndarray, name: str) -> np.ndarray:
    if logged.shape != (log.rows,):
        raise ValueError(f"{name}: probabilities have shape {logged.shape}: the log has {log.rows} rows")
    bad = improper(logged)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"{name}: {log.place(i)}: probability is {logged[i]}: must be within [0, 1]")
    return logged


def _row_of(log: Log, index: np.ndarray, m: int) -> str:
    """The first row that has distribution m."""
    used = np.flatnonzero(index == m)
    return log.place(int(used[0])) if used.size else f"distribution {m}"


def _some(values: list[Any]) -> str:
    text = ", ".join(str(value) for value in values[:5])
    return text if len(values) <= 5 else f"{text}, … ({len(values)} in all)"
