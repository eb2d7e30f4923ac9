"""Does off-policy evaluation find on a real log what the other policy really earned there?

python benchmarks/off_policy.py LOG [--reward-model CONFIG --runs FOLDER] [--json]

LOG: Open Bandit rows of both policies, `random` and `bts`, with columns policy and campaign. For each campaign and
direction the value of the target (its action frequencies by position, uniform for `random`) is estimated on the other
policy's rows and held against what it earned itself: inside the interval or not, and how many standard errors (of both)
apart. --reward-model: a configuration trained out of fold stands for the default reward model.

Agreement: every estimate once more by the published formulas, written out, and by the Open Bandit Pipeline (`obp`) where it
is installed, on the same arrays; the largest difference is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.evaluation.off_policy.estimators import evaluate_policy
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.replay import replay
from recsys.evaluation.off_policy.reward import RewardModel, model_of
from recsys.evaluation.off_policy.target import Target, frequencies, probabilities, uniform
from recsys.policies.log import read_log
from recsys.reports.off_policy import on_policy

THRESHOLD = 2.0  # of the comparison of formulas: low, so that weights are cut


def judged(log: Log, own: Log, model: RewardModel | None, target: Target) -> list[dict[str, Any]]:
    """Return a row for each estimator, with the target's own mean."""
    truth = on_policy(own).overall
    result = evaluate_policy(log, target, model=model)
    rows = []
    for estimate in result.overall.estimates:
        low, high = estimate.interval
        rows.append(
            {
                "estimator": estimate.estimator,
                "value": estimate.value,
                "interval": [low, high],
                "own": truth.value,
                "own_error": truth.standard_error,
                "inside": low <= truth.value <= high,
                "errors_apart": (estimate.value - truth.value)
                / float(np.hypot(estimate.standard_error, truth.standard_error)),
                "effective_rows": estimate.effective_rows,
                "effective_rewards": estimate.effective_rewards,
                "largest_weight": estimate.largest_weight,
                "clipped_rows": estimate.clipped_rows,
                "reliable": estimate.reliable,
            }
        )
    return rows


def differences(log: Log, target: Target) -> dict[str, float]:
    """Largest difference of our estimates from the formulas and from obp, with predictions q of one mean per action."""
    assert target.table is not None
    assert target.index is not None
    pi, n = target.table[target.index], log.rows
    clicks = np.bincount(log.actions, log.rewards) / np.bincount(log.actions)
    q = np.tile(clicks, (n, 1)) * np.linspace(0.5, 1.5, n)[:, None]
    estimates = evaluate_policy(log, target, model=model_of(log, target, q, "q"), threshold=THRESHOLD).overall
    ours = {estimate.estimator: estimate.value for estimate in estimates.estimates}
    best = np.eye(pi.shape[1])[clicks.argsort()[-1]][None]
    steady = probabilities(log, None, best, np.zeros(n, int), name="the most clicked action")
    even = bool(np.ptp(log.propensities) == 0)
    if even:
        ours["replay"] = replay(log, steady).overall.value or 0.0

    r, w = log.rewards, pi[np.arange(n), log.actions] / log.propensities
    q_logged, q_pi = q[np.arange(n), log.actions], (pi * q).sum(axis=1)
    formulas = {
        "ips": np.mean(w * r),
        "snips": np.sum(w * r) / np.sum(w),
        "clipped": np.mean(np.minimum(w, THRESHOLD) * r),
        "dm": np.mean(q_pi),
        "dr": np.mean(q_pi + w * (r - q_logged)),
        "switch-dr": np.mean(q_pi + (w <= THRESHOLD) * w * (r - q_logged)),
    }
    if even:
        formulas["replay"] = np.mean(r[best[0, log.actions] == 1])
    found = {"formulas": max(abs(ours[name] - value) for name, value in formulas.items())}
    theirs = by_obp(log, pi, q, np.tile(best, (n, 1)) if even else None)
    if theirs:
        found |= {f"obp {name}": abs(ours[name] - value) for name, value in theirs.items()}
    return found


def by_obp(log: Log, pi: np.ndarray, q: np.ndarray, steady: np.ndarray | None) -> dict[str, float]:
    """Return the estimates of the Open Bandit Pipeline, where it is installed."""
    try:
        from obp import ope
    except ImportError:
        return {}
    logged = {"reward": log.rewards, "action": log.actions}
    given = {
        **logged,
        "pscore": log.propensities,
        "position": np.zeros(log.rows, int),
        "action_dist": pi[:, :, None],
        "estimated_rewards_by_reg_model": q[:, :, None],
    }
    estimators = {
        "ips": ope.InverseProbabilityWeighting(),
        "snips": ope.SelfNormalizedInverseProbabilityWeighting(),
        "dm": ope.DirectMethod(),
        "dr": ope.DoublyRobust(),
        "switch-dr": ope.SwitchDoublyRobust(tau=THRESHOLD),
    }
    found = {name: float(estimator.estimate_policy_value(**given)) for name, estimator in estimators.items()}
    if steady is not None:
        replayed = ope.ReplayMethod().estimate_policy_value(
            **logged, action_dist=steady[:, :, None], position=given["position"]
        )
        found["replay"] = float(replayed)
    return found


def run(path: Path, config: Path | None, runs: Path) -> list[dict[str, Any]]:
    found = []
    for campaign in ("men", "women"):
        logs = {
            name: read_log(path, where=[f"policy={name}", f"campaign={campaign}"])
            for name in ("random", "bts")
        }
        for logged, other in (("random", "bts"), ("bts", "random")):
            log, own = logs[logged], logs[other]
            target = uniform(log) if other == "random" else frequencies(log, own)
            model = None
            if config is not None:
                from recsys.config import load_experiment
                from recsys.policies.models import cross_fitted

                model = cross_fitted(load_experiment(config, str(path)), path, log, target, runs)
            found.append(
                {
                    "campaign": campaign,
                    "logged": logged,
                    "target": other,
                    "logged_value": float(log.rewards.mean()),
                    "estimates": judged(log, own, model, target),
                    "differences": differences(log, target),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--reward-model", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.log, arguments.reward_model, arguments.runs)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    console = Console(width=170)
    for part in found:
        title = f"{part['campaign']}: {part['target']} from rows of {part['logged']}, which earned"
        title += f" {part['logged_value']:.5f}"
        headers = (
            "estimator",
            "value",
            "95% interval",
            "own log",
            "inside",
            "errors apart",
            "effective rows",
            "effective rewards",
        )
        table = Table(*headers, "largest weight", "rows cut", "reliable", title=title, title_justify="left")
        for e in part["estimates"]:
            numbers = [e["effective_rows"], e["effective_rewards"], e["largest_weight"], e["clipped_rows"]]
            table.add_row(
                e["estimator"],
                f"{e['value']:.5f}",
                f"{e['interval'][0]:.5f} to {e['interval'][1]:.5f}",
                f"{e['own']:.5f} ± {e['own_error']:.5f}",
                "yes" if e["inside"] else "no",
                f"{e['errors_apart']:+.1f}",
                *("–" if number is None else f"{number:,.4g}" for number in numbers),
                "yes" if e["reliable"] else "no",
            )
        console.print(table)
        console.print(
            "largest differences:", {name: f"{value:.1e}" for name, value in part["differences"].items()}
        )


if __name__ == "__main__":
    main()
