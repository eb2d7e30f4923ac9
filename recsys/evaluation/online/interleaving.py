"""Interleaving: two rankers share each list that a user sees, and clicks tell which of them users prefer.

Team draft (Radlinski, Kurup & Joachims 2008, "How does clickthrough data reflect retrieval quality?", section 3.4): as
captains do, the rankers take turns in picking their best item that is not in the list yet, a coin says who goes first in
each round, and a click is credited to the team of its item. An impression is won by the team with more clicks.

    preference = (wins of the first + ties / 2) / impressions - 1/2        within [-1/2, 1/2], 0 where rankers are equal

(Δ of Chapelle, Joachims, Radlinski & Yue 2012, "Large-scale validation and analysis of interleaved search evaluation",
eq. 1; impressions without a click are ties.) It says who is preferred, not by how many clicks. Its error is summed by user,
whose impressions are dependent (Student's t, users - 1 degrees of freedom). Beside it an exact sign test over users: each
counts once, by the team that won more of his impressions.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student

from recsys.evaluation.off_policy.errors import Interval, standard_error

FEW_UNITS = 10  # users with a preference below which no verdict is given
UNFAIR = 0.001  # p-value of the draft's coin below which nothing is judged

Item = TypeVar("Item", bound=Hashable)


def team_draft(
    first: Sequence[Item], second: Sequence[Item], length: int, rng: np.random.Generator
) -> tuple[list[Item], np.ndarray]:
    """Draft one list of at most `length` items from two rankings: items, and 0 or 1 for the team of each.

    It ends early when a ranking has nothing left that is not in the list (algorithm 2 of the paper). Give each impression
    its own draws: a coin that falls the same for a user's whole session makes his clicks one. Errors (ValueError): a
    ranking that repeats an item, a length below 1.
    """
    rankings = (list(first), list(second))
    for name, ranking in zip(("first", "second"), rankings, strict=True):
        if len(set(ranking)) < len(ranking):
            raise ValueError(f"the {name} ranking repeats an item: rank each once")
    if length < 1:
        raise ValueError(f"length is {length}: must be at least 1")
    items: list[Item] = []
    teams: list[int] = []
    taken: set[Item] = set()
    sizes, places = [0, 0], [0, 0]
    while len(items) < length:
        for team, ranking in enumerate(rankings):
            while places[team] < len(ranking) and ranking[places[team]] in taken:
                places[team] += 1
        if any(places[team] == len(rankings[team]) for team in (0, 1)):
            break
        team = int(rng.random() < 0.5) if sizes[0] == sizes[1] else int(sizes[0] > sizes[1])
        item = rankings[team][places[team]]
        items.append(item)
        teams.append(team)
        taken.add(item)
        sizes[team] += 1
    return items, np.array(teams, np.intp)


@dataclass(frozen=True)
class InterleavedLog:
    """A checked log of n shown items. Arrays have one entry per row.

    `impressions`, `positions`: codes from 0. `teams`: 0 or 1. `clicks`: 0 or 1. `users`: codes of the impressions' users
    [I], None where impressions are independent.
    """

    impressions: np.ndarray
    positions: np.ndarray
    teams: np.ndarray
    clicks: np.ndarray
    users: np.ndarray | None
    team_names: tuple[str, str]
    position_names: tuple[str, ...]
    source: str = "log"


@dataclass(frozen=True)
class Interleaving:
    """What a log of team drafts says. Pairs are (first team, second team).

    `wins`, `ties` (with clicks on both) and `without_click`: impressions. `preferring`: users, or impressions where users
    are unknown, that one team won more of; `sign_p`: exact binomial test of them. `first_places`: lists that each team
    opened, `coin_p`: whether a fair coin opens so many. `click_rates` [2, P]: by team and position, None where nothing was
    shown. Intervals and p-values are None where no error can be estimated.
    """

    source: str
    teams: tuple[str, str]
    impressions: int
    users: int | None
    shown: tuple[int, int]
    clicks: tuple[int, int]
    wins: tuple[int, int]
    ties: int
    without_click: int
    preference: float
    interval: Interval | None
    standard_error: float | None
    p_value: float | None
    preferring: tuple[int, int]
    sign_p: float
    first_places: tuple[int, int]
    coin_p: float
    positions: tuple[str, ...]
    click_rates: tuple[tuple[float | None, ...], ...]
    level: float
    verdict: Literal["first", "second", "undecided", "unreliable", "broken"]
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)


def analyse_interleaving(log: InterleavedLog, *, level: float = 0.95) -> Interleaving:
    """Say which team users prefer: credit, preference with interval, two tests, and whether the draft was fair.

    Errors (ValueError): `level` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: must be within (0, 1)")
    count = int(log.impressions.max()) + 1
    credit = np.array(
        [np.bincount(log.impressions[log.teams == t], log.clicks[log.teams == t], count) for t in (0, 1)]
    )
    won = np.sign(credit[0] - credit[1])  # 1, 0, -1
    units = np.arange(count) if log.users is None else log.users
    preference = float(won.mean() / 2)
    error, p_value = _tested(won / 2, 0.0, units)
    half = None if error is None else float(student.ppf((1 + level) / 2, int(units.max()))) * error
    by_unit = np.sign(np.bincount(units, won))
    preferring = int((by_unit > 0).sum()), int((by_unit < 0).sum())
    by_place = np.lexsort((log.positions, log.impressions))
    openings = by_place[np.unique(log.impressions[by_place], return_index=True)[1]]  # a list's own first row
    first_teams = log.teams[openings]
    coin_p = _coin(first_teams, units)
    clicked = credit.sum(axis=0) > 0
    note = _note(coin_p, first_teams, error, sum(preferring), log)
    return Interleaving(
        source=log.source,
        teams=log.team_names,
        impressions=count,
        users=None if log.users is None else int(units.max()) + 1,
        shown=_pair(np.bincount(log.teams, minlength=2)),
        clicks=_pair(credit.sum(axis=1)),
        wins=(int((won > 0).sum()), int((won < 0).sum())),
        ties=int((clicked & (won == 0)).sum()),
        without_click=int((~clicked).sum()),
        preference=preference,
        interval=None if half is None else (preference - half, preference + half),
        standard_error=error,
        p_value=p_value,
        preferring=preferring,
        sign_p=float(binomtest(preferring[0], sum(preferring)).pvalue) if sum(preferring) else 1.0,
        first_places=_pair(np.bincount(first_teams, minlength=2)),
        coin_p=coin_p,
        positions=log.position_names,
        click_rates=_rates(log),
        level=float(level),
        verdict=_verdict(coin_p, note, preference, p_value, 1 - level),
        note=note,
    )


def _tested(values: np.ndarray, expected: float, units: np.ndarray) -> tuple[float | None, float | None]:
    """Standard error by unit of the mean of values, and the p-value of its distance from what is expected."""
    error = standard_error(values - values.mean(), units)
    if error == 0:
        return None, None
    return error, float(2 * student.sf(abs(values.mean() - expected) / error, int(units.max())))


def _coin(first_teams: np.ndarray, units: np.ndarray) -> float:
    """P-value of opening lists by a fair coin; by unit, as a system may draw once for a user's session."""
    p_value = _tested(first_teams.astype(float), 0.5, units)[1]
    return float(binomtest(int(first_teams.sum()), first_teams.size).pvalue) if p_value is None else p_value


def _note(
    coin_p: float, first_teams: np.ndarray, error: float | None, preferring: int, log: InterleavedLog
) -> str:
    if coin_p < UNFAIR:
        return (
            f"{log.team_names[0]} opened {1 - first_teams.mean():.1%} of the lists, which is no fair coin "
            f"(p = {coin_p:.2g}): find out how lists were drafted, or which are missing from the log"
        )
    if error is None:
        return "every impression says the same: no error can be estimated"
    if preferring < FEW_UNITS:
        who = "impressions" if log.users is None else "users"
        return f"only {preferring} {who} prefer either"
    return ""


def _verdict(
    coin_p: float, note: str, preference: float, p_value: float | None, alpha: float
) -> Literal["first", "second", "undecided", "unreliable", "broken"]:
    if coin_p < UNFAIR:
        return "broken"
    if note or p_value is None:
        return "unreliable"
    if p_value >= alpha:
        return "undecided"
    return "first" if preference > 0 else "second"


def _rates(log: InterleavedLog) -> tuple[tuple[float | None, ...], ...]:
    size = len(log.position_names)
    cells = log.teams * size + log.positions
    shown = np.bincount(cells, minlength=2 * size).reshape(2, size)
    clicks = np.bincount(cells, log.clicks, minlength=2 * size).reshape(2, size)
    return tuple(
        tuple(float(c / n) if n else None for c, n in zip(*team, strict=True))
        for team in zip(clicks, shown, strict=True)
    )


def _pair(counts: np.ndarray) -> tuple[int, int]:
    return int(counts[0]), int(counts[1])
