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

    It ends early when a ranking has nothing left that is not in the list (algorithm 2 of the paper). Give each
    impression its own draws: a coin that falls the same for a user's whole session makes his clicks one.

    Raises:
        ValueError: A ranking repeats an item, or the length is below 1.
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
        items.append(rankings[team][places[team]])
        teams.append(team)
        taken.add(items[-1])
        sizes[team] += 1
    return items, np.array(teams, np.intp)


@dataclass(frozen=True)
class InterleavedLog:
    """A checked log of n shown items, with one row for each.

    Attributes:
        impressions: Codes of the impressions [n].
        positions: Codes of the positions [n].
        teams: Team of each item [n], 0 or 1.
        clicks: Whether each item was clicked [n], 0 or 1.
        users: Codes of the impressions' users [I]; None where impressions are independent.
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
    """The result of a log of team drafts. Pairs are (first team, second team).

    Interval and p-value are None where no error can be estimated.

    Attributes:
        wins: Impressions that each team won.
        ties: Impressions with as many clicks on both.
        without_click: Impressions without a click.
        preferring: Users, or impressions where users are unknown, that one team won more of.
        sign_p: P-value of the exact binomial test of these.
        first_places: Lists that each team opened.
        coin_p: P-value of a fair coin opening so many.
        click_rates: By team and position [2, P]; None where nothing was shown.
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

    Raises:
        ValueError: `level` is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: must be within (0, 1)")
    credit = _credit(log)
    won = np.sign(credit[0] - credit[1])  # 1, 0, -1
    units = np.arange(won.size) if log.users is None else log.users
    preference = float(won.mean() / 2)
    error, p_value = _tested(won / 2, 0.0, units)
    half = None if error is None else float(student.ppf((1 + level) / 2, int(units.max()))) * error
    by_unit = np.sign(np.bincount(units, won))
    preferring = int((by_unit > 0).sum()), int((by_unit < 0).sum())
    first_teams = _first_teams(log)
    coin_p = _coin(first_teams, units)
    clicked = credit.sum(axis=0) > 0
    note = _note(coin_p, first_teams, error, sum(preferring), log)
    return Interleaving(
        source=log.source,
        teams=log.team_names,
        impressions=int(won.size),
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


def _credit(log: InterleavedLog) -> np.ndarray:
    """Return the clicks of each team in each impression [2, I]."""
    count = int(log.impressions.max()) + 1
    of_teams = [log.teams == team for team in (0, 1)]
    return np.array([np.bincount(log.impressions[rows], log.clicks[rows], count) for rows in of_teams])


def _first_teams(log: InterleavedLog) -> np.ndarray:
    """Return the team that opened each impression's list [I], by the list's own first position."""
    by_place = np.lexsort((log.positions, log.impressions))
    return log.teams[by_place[np.unique(log.impressions[by_place], return_index=True)[1]]]


def _tested(values: np.ndarray, expected: float, units: np.ndarray) -> tuple[float | None, float | None]:
    """Return the standard error by unit of the mean of values, and the p-value of its distance from what is expected."""
    error = standard_error(values - values.mean(), units)
    if error == 0:
        return None, None
    return error, float(2 * student.sf(abs(values.mean() - expected) / error, int(units.max())))


def _coin(first_teams: np.ndarray, units: np.ndarray) -> float:
    """Return the p-value of opening lists by a fair coin; by unit, as a system may draw once for a user's session."""
    p_value = _tested(first_teams.astype(float), 0.5, units)[1]
    return float(binomtest(int(first_teams.sum()), first_teams.size).pvalue) if p_value is None else p_value


def _note(
    coin_p: float, first_teams: np.ndarray, error: float | None, preferring: int, log: InterleavedLog
) -> str:
    """Return why the result cannot be relied on; empty where it can."""
    if coin_p < UNFAIR:
        return (
            f"{log.team_names[0]} opened {1 - first_teams.mean():.1%} of the lists, which is no fair coin "
            f"(p = {coin_p:.2g}): find out how lists were drafted, or which are missing from the log"
        )
    if error is None:
        return "every impression says the same: no error can be estimated"
    if preferring < FEW_UNITS:
        unit = "impressions" if log.users is None else "users"
        return f"only {preferring} {unit} prefer either"
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
    """Return click rates by team and position; None where nothing was shown."""
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
