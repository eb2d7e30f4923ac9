"""How often does an online test find what is not there, when looked at every day, and once at its end?

python benchmarks/sequential_error.py [--tests 2000] [--users 4000] [--days 30] [--lift 0.4] [--start 0.5] [--seed 0]

Generated A/A tests: half of the users (--start) are there from the first day, the others arrive later; they come back, with
activity that is very uneven; each clicks on about 0.3 % of impressions, at a rate of his own (log-normal); a click is
worth a log-normal sum. Each test is judged by the code of `recsys abtest`:

- peeked at daily: the share of tests in which any of the days decided, by the confidence sequence, and by Welch's test
  at 5 %, which was made for one look; with --lift in the other half of the tests, the power of both;
- once, at the end: the share that Welch's test rejects with the user as unit (the command), and with the row as unit.

Intervals of 2,000 tests around 5 % reach from 4.1 to 6.0 %.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from scipy.stats import norm, ttest_ind

from recsys.evaluation.online.experiment import analyse
from recsys.evaluation.online.log import Target, assignments
from recsys.evaluation.online.sequential import confidence_sequence, daily_difference

METRICS = ("clicks", "clicks/impressions", "revenue")
RATE = 0.003
Log = dict[str, np.ndarray]


def generate(rng: np.random.Generator, users: int, days: int, lift: float, start: float) -> Log:
    """Impressions, clicks and revenue [U, D], the first day [U], and who is treated [U]."""
    first = np.where(rng.random(users) < start, 0, rng.integers(0, days, users))
    treated = rng.random(users) < 0.5
    activity = rng.gamma(0.7, 4.0, users)
    rate = RATE * rng.lognormal(-0.5, 1.0, users) * np.where(treated, 1 + lift, 1)
    impressions = rng.poisson(activity[:, None], (users, days)) * (np.arange(days) >= first[:, None])
    impressions[np.arange(users), first] += 1
    clicks = rng.binomial(impressions, np.minimum(rate, 1)[:, None])
    revenue = np.zeros(clicks.shape)
    seen = clicks > 0
    revenue[seen] = clicks[seen] * rng.lognormal(0, 1.2, int(seen.sum()))
    log = {"impressions": impressions, "clicks": clicks, "revenue": revenue}
    return {name: values.astype(np.float64) for name, values in log.items()} | {
        "first": first,
        "treated": treated,
    }


def peeked(log: Log, metric: str) -> tuple[int | None, int | None, bool]:
    """Day of the decision by the confidence sequence and by a test for one look; whether that decides on the last."""
    top, _, bottom = metric.partition("/")
    difference = daily_difference(
        log[top], log[bottom] if bottom else None, None, log["first"], log["treated"]
    )
    days = range(len(difference.estimates))
    found = confidence_sequence(days, difference)
    ready = np.array(
        [p is not None for p in found.p_values]
    )  # the rival is spared the days of very few users
    error = np.sqrt(np.diag(difference.covariance))
    outside = ready & (np.abs(difference.estimates) > norm.ppf(0.975) * error)
    return found.decided_on, int(outside.argmax()) if outside.any() else None, bool(outside[-1])


def at_the_end(log: Log) -> dict[str, tuple[float, float]]:
    """P-values at the end: of the command, by user, and of Welch's test over rows (user-days)."""
    user, day = np.nonzero(log["impressions"])
    arm = log["treated"][user]
    frame = pl.DataFrame(
        {
            "user": user,
            "variant": np.where(arm, "treatment", "control"),
            **{name: log[name][user, day] for name in ("impressions", "clicks", "revenue")},
        }
    )
    targets = [Target("clicks"), Target("clicks", "impressions"), Target("revenue")]
    effects = {e.metric: e.p_value for e in analyse(assignments(frame, "user", "variant", targets)).effects}
    result = {}
    for metric, name in (("clicks", "clicks"), ("revenue", "revenue"), ("clicks/impressions", "clicks")):
        values = log[name][user, day]
        if metric == "clicks/impressions":  # a row for each impression
            shown, hit = log["impressions"][user, day], values
            p = _by_impression(shown, hit, arm)
        else:
            p = float(ttest_ind(values[arm], values[~arm], equal_var=False).pvalue)
        result[metric] = (effects.get(metric, np.nan), p)
    return result


def _by_impression(shown: np.ndarray, hit: np.ndarray, arm: np.ndarray) -> float:
    """Two-sample z-test that takes every impression for an independent one."""
    n, k = (np.array([values[side].sum() for side in (arm, ~arm)]) for values in (shown, hit))
    p = k / n
    return float(2 * norm.sf(abs(p[0] - p[1]) / np.sqrt((p * (1 - p) / n).sum())))


def one(seed: int, users: int, days: int, lift: float, start: float) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 7])
    null, real = generate(rng, users, days, 0.0, start), generate(rng, users, days, lift, start)
    return {
        "null": {metric: peeked(null, metric) for metric in METRICS},
        "real": {metric: peeked(real, metric) for metric in METRICS},
        "end": at_the_end(null),
        "clicks": float(null["clicks"].sum()),
    }


def run(tests: int, users: int, days: int, lift: float, start: float, jobs: int, seed: int) -> dict[str, Any]:
    work = partial(one, users=users, days=days, lift=lift, start=start)
    with ProcessPoolExecutor(jobs) as pool:
        results = list(pool.map(work, range(seed, seed + tests), chunksize=10))

    def share(values: Iterator[bool]) -> float:
        return float(np.mean(list(values)))

    rows = []
    for metric in METRICS:
        decided = [r["real"][metric][0] for r in results if r["real"][metric][0] is not None]
        rows.append(
            {
                "metric": metric,
                "sequence_error": share(r["null"][metric][0] is not None for r in results),
                "peeked_error": share(r["null"][metric][1] is not None for r in results),
                "sequence_power": share(r["real"][metric][0] is not None for r in results),
                "peeked_power": share(r["real"][metric][1] is not None for r in results),
                "end_power": share(r["real"][metric][2] for r in results),
                "median_day": float(np.median(decided)) + 1 if decided else None,
                "user_error": share(r["end"][metric][0] < 0.05 for r in results),
                "row_error": share(r["end"][metric][1] < 0.05 for r in results),
            }
        )
    return {
        "tests": tests,
        "users": users,
        "days": days,
        "lift": lift,
        "start": start,
        "clicks_per_test": float(np.mean([r["clicks"] for r in results])),
        "sample_ratio_failed": share(np.isnan(r["end"]["clicks"][0]) for r in results),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--lift", type=float, default=0.4)
    parser.add_argument("--start", type=float, default=0.5, help="share of users there from the first day")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.perf_counter()
    found = run(
        options.tests, options.users, options.days, options.lift, options.start, options.jobs, options.seed
    )
    if options.json:
        print(json.dumps(found, indent=1))
        return
    console = Console(width=150)
    title = (
        f"{found['tests']} A/A tests, {found['users']} users, {found['days']} days, "
        f"{found['clicks_per_test']:.0f} clicks a test"
    )
    daily = Table(
        "metric",
        "sequence",
        "one-look test",
        f"sequence at {options.lift:+.0%}",
        "its median day",
        "one-look test",
        "one look at the end",
        title=f"decided on any day; {title}",
    )
    end = Table("metric", "by user (the command)", "by row", title=f"rejected at the end; {title}")
    for row in found["rows"]:
        day = "–" if row["median_day"] is None else f"{row['median_day']:.0f}"
        numbers = (f"{row[k]:.2%}" for k in ("sequence_error", "peeked_error", "sequence_power"))
        daily.add_row(row["metric"], *numbers, day, f"{row['peeked_power']:.2%}", f"{row['end_power']:.2%}")
        end.add_row(row["metric"], f"{row['user_error']:.2%}", f"{row['row_error']:.2%}")
    console.print(daily)
    console.print(end)
    console.print(
        f"sample ratio refused {found['sample_ratio_failed']:.2%} (wanted 0.1 %); {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
