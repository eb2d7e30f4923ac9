"""Target policies of off-policy evaluation, and whether a log supports them.

Symbols: n rows, A actions, P positions, M distinct distributions of the target over actions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsys.evaluation.metrics import improper
from recsys.evaluation.off_policy.log import Log

SUM_TOLERANCE = 1e-6  # of probabilities over actions: text files round


@dataclass(frozen=True)
class Target:
    """A policy to be judged, by its probabilities.

    Attributes:
        name: Name of the policy in reports and messages.
        logged: Its probability of each logged action [n].
        table: Distributions over the log's actions [M, A]. None where only `logged` is known: then no reward model can
            be averaged over the policy, and support cannot be checked.
        index: The distribution of each row [n]: row i has table[index[i]]. None where `table` is.
    """

    name: str
    logged: np.ndarray
    table: np.ndarray | None = None
    index: np.ndarray | None = None

    def mass(self, log: Log) -> np.ndarray | None:
        """Sum the target's probability over rows by position and action: float64 [P, A], None without a table."""
        if self.table is None or self.index is None:
            return None
        return grouped_mass(self.table, self.index, log.positions, len(log.position_names))


def uniform(log: Log) -> Target:
    """Return the policy that takes each of the log's A actions with probability 1 / A."""
    size = len(log.action_names)
    table = np.full((1, size), 1 / size)
    return Target("uniform", np.full(log.rows, 1 / size), table, np.zeros(log.rows, np.intp))


def frequencies(log: Log, other: Log) -> Target:
    """Return the frequencies of actions by position in another log: what its policy does, regardless of context.

    This is that policy itself only if it ignores context. Actions and positions of both logs are the same where they
    are printed the same: one may hold text, one integers.

    Raises:
        ValueError: `other` lacks a position, or has actions that `log` lacks (it gives no support to them).
    """
    counts = other.counts()
    action_codes = _codes_by_text(log.action_names)
    other_actions = list(_codes_by_text(other.action_names))
    absent = [name for name in other_actions if name not in action_codes]
    if absent:
        rows = counts[:, [name not in action_codes for name in other_actions]].sum()
        raise ValueError(
            f"{log.source}: no support: {log.columns['action']} {_some(absent)} never occurs in it, but has "
            f"{rows / other.rows:.2%} of the rows of {other.source}; no reweighting can tell its reward"
        )
    other_positions, positions = (
        _codes_by_text(other.position_names),
        list(_codes_by_text(log.position_names)),
    )
    missing = [name for name in positions if name not in other_positions]
    if missing:
        raise ValueError(
            f"{other.source}: has no {other.columns['position']} {_some(missing)}, which {log.source} has: "
            "its policy is unknown there; leave these rows out"
        )
    table = np.zeros((len(log.position_names), len(log.action_names)))
    columns = [action_codes[name] for name in other_actions]
    for code, name in enumerate(positions):
        row = counts[other_positions[name]]
        table[code, columns] = row / row.sum()
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
    """Return a target by its probabilities: of the logged actions, of all actions, or both.

    A sum below 1 is mass on actions that the log does not have; `support` refuses it.

    Args:
        log: The log that the target is judged on.
        logged: Probability of each logged action [n].
        table: Distributions over the log's actions [M, A].
        index: The distribution of each row [n]; None where M = n and each row has its own.
        name: Name of the policy in reports and messages.

    Raises:
        ValueError: Probabilities outside [0, 1] or NaN, rows that sum to more than 1, `logged` and `table` that
            disagree.
    """
    if table is None:
        if logged is None:
            raise ValueError(f"{name}: give probabilities of the logged actions, of all actions, or both")
        return Target(name, _proper(log, np.asarray(logged, np.float64), name))
    full = np.asarray(table, np.float64)
    rows = np.arange(log.rows) if index is None else np.asarray(index)
    _check_table(log, full, rows, name)
    of_logged = full[rows, log.actions]
    if logged is not None:
        stated = _proper(log, np.asarray(logged, np.float64), name)
        off = np.abs(stated - of_logged) > SUM_TOLERANCE
        if off.any():
            i = int(off.argmax())
            raise ValueError(
                f"{name}: {log.place(i)}: probability is {stated[i]}, but {of_logged[i]} in the column of its action "
                f"{log.action_names[log.actions[i]]}: give one of the two"
            )
    return Target(name, of_logged, full, rows)


def support(log: Log, target: Target) -> np.ndarray | None:
    """Return the share of the target's mass on (position, action) pairs that were logged: [P], None where it is unknown.

    Reweighting is blind to what happens on pairs that were never logged, so that with mass there no estimate of the
    value exists (positivity; Owen 2013, section 9.1).

    Raises:
        ValueError: Some of the mass is on pairs that were never logged.
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
    beyond = rows - mass.sum(axis=1)
    if (beyond > SUM_TOLERANCE * rows).any():
        p = int((beyond / rows).argmax())
        raise ValueError(
            f"{log.source}: no support: at position {log.position_names[p]} the probabilities of {target.name} over "
            f"the log's actions sum to {1 - beyond[p] / rows[p]:.6g} on average; the rest is on actions that were "
            "never logged, and no reweighting can tell their reward"
        )
    lost = np.where(counts == 0, mass, 0.0)
    if (lost > 0).any():
        raise ValueError(_lost_support(log, target, lost, rows))
    return 1 - lost.sum(axis=1) / rows


def grouped_mass(table: np.ndarray, index: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sum table[index[i]] over the rows of each group: [groups, A]."""
    out = np.empty((groups, table.shape[1]))
    for g in range(groups):
        out[g] = np.bincount(index[group == g], minlength=len(table)) @ table
    return out


def _check_table(log: Log, table: np.ndarray, index: np.ndarray, name: str) -> None:
    """Refuse distributions [M, A] that do not fit the log, are no probabilities, or sum to more than 1."""
    if table.ndim != 2 or table.shape[1] != len(log.action_names) or index.shape != (log.rows,):
        raise ValueError(
            f"{name}: probabilities have shape {table.shape}, index {index.shape}: the log has {log.rows} rows and "
            f"{len(log.action_names)} actions"
        )
    if index.min() < 0 or index.max() >= len(table):
        raise ValueError(
            f"{name}: index runs from {index.min()} to {index.max()}, of {len(table)} distributions"
        )
    bad = improper(table)
    if bad.any():
        m, a = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(
            f"{name}: {_row_of(log, index, int(m))}: probability of {log.action_names[a]} is {table[m, a]}: "
            "must be within [0, 1]"
        )
    sums = table.sum(axis=1)
    if (sums > 1 + SUM_TOLERANCE).any():
        highest = int(sums.argmax())
        raise ValueError(
            f"{name}: {_row_of(log, index, highest)}: probabilities of all actions sum to {sums[highest]:.9g}: "
            "they must sum to 1"
        )


def _lost_support(log: Log, target: Target, lost: np.ndarray, rows: np.ndarray) -> str:
    """Return what to say of mass [P, A] on pairs that were never logged, of `rows` [P] by position."""
    p, a = divmod(int((lost / rows[:, None]).argmax()), lost.shape[1])
    return (
        f"{log.source}: no support: {log.columns['action']} {log.action_names[a]} was never logged at position "
        f"{log.position_names[p]}, but {target.name} shows it there with probability {lost[p, a] / rows[p]:.4g}; "
        f"{lost.sum() / log.rows:.2%} of its mass, {int((lost > 0).sum())} pairs of position and action, cannot be "
        "judged: use a longer log, or a policy within the logged actions"
    )


def _proper(log: Log, logged: np.ndarray, name: str) -> np.ndarray:
    """Return probabilities of the logged actions [n], once they are known to be some."""
    if logged.shape != (log.rows,):
        raise ValueError(f"{name}: probabilities have shape {logged.shape}: the log has {log.rows} rows")
    bad = improper(logged)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"{name}: {log.place(i)}: probability is {logged[i]}: must be within [0, 1]")
    return logged


def _row_of(log: Log, index: np.ndarray, m: int) -> str:
    """Return where the first row with distribution m stands."""
    used = np.flatnonzero(index == m)
    return log.place(int(used[0])) if used.size else f"distribution {m}"


def _some(values: list[str]) -> str:
    """List the first five values, and say how many there are."""
    text = ", ".join(values[:5])
    return text if len(values) <= 5 else f"{text}, … ({len(values)} in all)"


def _codes_by_text(names: np.ndarray) -> dict[str, int]:
    """Return the code of each name by how it is printed."""
    return {str(name): code for code, name in enumerate(names.tolist())}
