"""How often comparisons with few positives, or few users, are wrong: `calibration.py --few`.

Every comparison has one seed and goes through the code of `recsys compare`; three questions are asked of it.

- error: two arms whose predictions could be swapped ("A/A"). Any verdict of better or worse is wrong.
- power: the second arm's scores of positives are lower by as much as makes the true difference in AUC twice its standard
  error (`gap_for`). A verdict of worse is right.
- margin: the second arm's true loss is the margin itself. "Not worse than −margin" is wrong.

Rows: 500, exactly m of them positive, normal scores that are higher by 1.2 on positives and half of whose variance is
common to both arms. Users: a log-normal number of rows each, 30 in the mean, labels and scores that depend on the user.
Margins: rows as above; "near" arms separate the classes almost (AUC 0.998), "far" arms do not (AUC 0.76).
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.special import expit
from scipy.stats import norm

from recsys.comparison.judge import _power
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.metrics import auc

POSITIVES = (1, 2, 3, 5, 10, 20, 50)
USERS = (5, 10, 20, 50)
METRICS = ("auc", "gauc", "logloss", "ne", "calibration")
DRAWS = 400  # to find a gap, and ten times as many for a true loss
SIGNAL = 1.2  # of scores, in their standard deviations
ERRORS = 2.0  # of the true difference


@dataclass(frozen=True)
class Drawn:
    """Predictions of two arms [1, n], labels [n] and users [n], if any."""

    arms: dict[str, np.ndarray]
    labels: np.ndarray
    users: np.ndarray | None


@dataclass(frozen=True)
class Rows:
    """Independent rows, some positive; the second arm's scores of those are lower by `gap`."""

    positives: int
    rows: int = 500
    gap: float = 0.0
    signal: float = SIGNAL

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draw a test set and the predictions of both arms."""
        labels = np.arange(self.rows) < self.positives
        common = rng.normal(size=self.rows)
        arms = {}
        for name, signal in zip("ab", (self.signal, self.signal - self.gap), strict=True):
            scores = signal * labels + np.sqrt(0.5) * (common + rng.normal(size=self.rows))
            arms[name] = expit(scores - 2)[None]
        return Drawn(arms, labels.astype(np.int8), None)


@dataclass(frozen=True)
class Users:
    """Users of uneven activity; the second arm's scores of positives are lower by `gap`, both higher by `signal`."""

    users: int
    gap: float = 0.0
    signal: float = 0.0

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draw a test set and the predictions of both arms."""
        rows = 1 + rng.poisson(30 * rng.lognormal(-0.125, 0.5, self.users))
        user = np.repeat(np.arange(self.users), rows)
        seen = 0.7 * (rng.normal(size=(2, self.users))[:, user] + rng.normal(size=(2, user.size)))
        logit = -1 + 0.8 * seen.sum(axis=0) + 0.7 * rng.normal(size=self.users)[user]
        labels = rng.random(user.size) < expit(logit)
        arms = {}
        for name, feature, signal in zip("ab", seen, (self.signal, self.signal - self.gap), strict=True):
            learnt = 0.25 * rng.normal(size=self.users)[user]
            arms[name] = expit(np.round(0.8 * feature + learnt + signal * labels - 1, 1))[None]
        return Drawn(arms, labels.astype(np.int8), user)


World = Rows | Users


def change(drawn: Drawn) -> float:
    """AUC of the second arm less that of the first."""
    return auc(drawn.labels, drawn.arms["b"][0]) - auc(drawn.labels, drawn.arms["a"][0])


def gap_for(world: World) -> float:
    """Return the gap at which the true difference in AUC is twice the standard deviation of its estimate."""
    low, high = 0.0, 8.0
    for _ in range(9):
        middle = (low + high) / 2
        lower = replace(world, gap=middle)
        found = [change(lower.draw(np.random.default_rng([1, i]))) for i in range(DRAWS)]
        low, high = (middle, high) if -np.mean(found) < ERRORS * np.std(found) else (low, middle)
    return (low + high) / 2


MARGINS: dict[str, tuple[World, float]] = {
    f"{rows} rows, {positives} positive, {kind}": (Rows(positives, rows, signal=signal), loss)
    for rows, positives in ((12, 4), (20, 5), (40, 10), (100, 10))
    for kind, signal, loss in (("near", 4.0, 0.011), ("far", 1.0, 0.05))
} | {
    "200 users, near": (Users(200, gap=0.5, signal=4.0), 0.0),
    "200 users, far": (Users(200, gap=0.2), 0.0),
}


def margin_world(name: str) -> tuple[World, float]:
    """Return a world whose true loss is the margin, and the margin: rows get a gap, of users the loss is drawn."""
    world, loss = MARGINS[name]
    if isinstance(world, Rows):
        other = np.sqrt(2) * norm.ppf(norm.cdf(world.signal / np.sqrt(2)) - loss)
        return replace(world, gap=float(world.signal - other)), loss
    losses = [-change(world.draw(np.random.default_rng([2, i]))) for i in range(10 * DRAWS)]
    return world, float(np.mean(losses))


def counted(
    world: World,
    sims: int,
    replicates: int,
    margin: float | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Shares of `sims` comparisons by what was said of them: {metric: {verdict, worse, refused}}, and `not_worse`.

    `verdict`: better or worse; `refused`: none could be given; `not_worse`: not worse than −margin in AUC.
    """
    said: Counter[tuple[str, str]] = Counter()
    for number in range(sims):
        drawn = world.draw(np.random.default_rng([3, number]))
        result = compare(
            drawn.arms, drawn.labels, drawn.users, metrics=metrics, replicates=replicates, seed=number
        )
        for d in result.differences:
            said[d.metric, "verdict"] += d.verdict != "undecided"
            said[d.metric, "worse"] += d.verdict == "worse"
            said[d.metric, "refused"] += d.no_verdict is not None
            if d.metric == "auc" and margin is not None:
                said["auc", "not_worse"] += bool(_power(d, result, margin).not_worse)
    shares: dict[str, Any] = {}
    for (metric, what), count in said.items():
        shares.setdefault(metric, {})[what] = count / sims
    return shares


def cells() -> dict[str, Callable[[int, int], dict[str, Any]]]:
    """Everything to simulate, by name: a function of the number of simulations and of replicates."""
    worlds: dict[str, World] = {f"{count} positives": Rows(count) for count in POSITIVES}
    worlds |= {f"{count} users": Users(count) for count in USERS}
    found: dict[str, Callable[[int, int], dict[str, Any]]] = {}
    for name, world in worlds.items():
        found[f"error, {name}"] = partial(counted, world)
        found[f"power, {name}"] = partial(_powered, world)
    for name in MARGINS:
        found[f"margin, {name}"] = partial(_margined, name)
    return found


def _powered(world: World, sims: int, replicates: int) -> dict[str, Any]:
    gap = gap_for(world)
    return {"gap": gap, **counted(replace(world, gap=gap), sims, replicates, metrics=("auc",))}


def _margined(name: str, sims: int, replicates: int) -> dict[str, Any]:
    world, margin = margin_world(name)
    return {"margin": margin, **counted(world, sims, replicates, margin, ("auc",))}


def run(folder: Path, sims: int, replicates: int) -> dict[str, Any]:
    """Results of all cells; those in the folder are not simulated again."""
    kept = folder / f"few-{sims}-{replicates}.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {name: shares for name, shares in map(json.loads, lines)}
    for name, simulated in cells().items():
        if name not in done:
            done[name] = simulated(sims, replicates)
            with kept.open("a") as file:
                file.write(json.dumps([name, done[name]]) + "\n")
    return done


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Per cent of comparisons: wrong verdicts and power by world, and "not worse" at a true loss of the margin."""
    errors = Table(title="A/A: verdicts, wanted at most 6.4 %; and power at twice the standard error")
    for header in ("world", *METRICS, "no verdict on AUC", "power, AUC"):
        errors.add_column(header, justify="left" if header == "world" else "right")
    margins = Table("world", "margin", "not worse, %", "no verdict, %", title="True loss = margin")
    for cell, shares in found.items():
        kind, name = cell.split(", ", 1)
        if kind == "error":
            wrong = (_percent(shares.get(metric, {}).get("verdict")) for metric in METRICS)
            power = found.get(f"power, {name}", {}).get("auc", {}).get("worse")
            errors.add_row(name, *wrong, _percent(shares["auc"]["refused"]), _percent(power))
        if kind == "margin":
            auc_shares = shares["auc"]
            margins.add_row(
                name,
                f"{shares['margin']:.4f}",
                _percent(auc_shares["not_worse"]),
                _percent(auc_shares["refused"]),
            )
    return [errors, margins]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
