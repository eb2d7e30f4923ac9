"""Replay against plain means, against IPS where both must agree, and against a bandit whose truth is known."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student
from typer.testing import CliRunner

from recsys import cli
from recsys.evaluation.off_policy.estimators import evaluate_policy
from recsys.evaluation.off_policy.log import Log, bandit_log
from recsys.evaluation.off_policy.replay import replay
from recsys.evaluation.off_policy.target import Target, probabilities, uniform
from recsys.reports.replay import replay_summary, write_replay

HAS_PICTURES = find_spec("matplotlib") is not None  # the extra `pictures`

MEANS = np.array([[0.10, 0.30, 0.50, 0.20], [0.40, 0.15, 0.05, 0.60]])  # of a reward: context × action
TARGET = np.array([[0.10, 0.20, 0.60, 0.10], [0.35, 0.05, 0.10, 0.50]])
BEST = np.array([[0, 0, 1, 0], [0, 0, 0, 1]])


def simulate(seed: int, table: np.ndarray, n: int = 1200, users: int = 0) -> tuple[Log, Target]:
    """Uniform choices among four actions; with users, one context and one mood each. Contexts are positions as well."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n) if users else None
    context = rng.integers(0, 2, n) if user is None else rng.integers(0, 2, users)[user]
    mood = 0.0 if user is None else rng.choice([-1.0, 1.0], users)[user]
    action = rng.integers(0, 4, n)
    mean = MEANS[context, action]
    reward = (rng.random(n) < mean * (1 + 0.9 * mood * np.minimum(1, 1 / mean - 1))).astype(float)
    log = bandit_log(action, reward, np.full(n, 0.25), context, user)
    return log, probabilities(log, None, table, context)


def test_a_target_that_does_not_draw_keeps_the_rows_it_agrees_with() -> None:
    log, target = simulate(0, BEST)
    found, weighed = replay(log, target), evaluate_policy(log, target)
    for part, rows, by_weights in [
        (found.overall, log.positions >= 0, weighed.overall),
        (found.positions[1], log.positions == 1, weighed.positions[1]),
    ]:
        kept = rows & (BEST[log.positions, log.actions] == 1)
        own = log.rewards[kept]
        assert part.matched == kept.sum()
        assert part.expected == rows.sum() / 4
        assert part.value == pytest.approx(own.mean())
        error = own.std(ddof=1) / np.sqrt(own.size)
        assert part.standard_error == pytest.approx(error)
        assert part.interval is not None
        assert part.interval[1] - own.mean() == pytest.approx(student.ppf(0.975, own.size - 1) * error)
        assert part.logged_value == pytest.approx(log.rewards[rows].mean())
        assert part.effective_rewards == own.sum()
        # all kept rows weigh the same: replay is self-normalised IPS, value and difference
        assert part.value == pytest.approx(by_weights["snips"].value)
        assert part.difference_interval == pytest.approx(by_weights["snips"].difference_interval)
    assert found.verdict == "better"
    assert replay(log, target, seed=5).overall == found.overall


def test_a_target_that_draws_keeps_rows_with_its_probability() -> None:
    log, target = simulate(1, TARGET, 4000)
    kept = np.random.default_rng(3).random(4000) < TARGET[log.positions, log.actions]
    found = replay(log, target, seed=3)
    assert found.overall.matched == kept.sum()
    assert found.overall.value == pytest.approx(log.rewards[kept].mean())
    itself = replay(log, uniform(log))
    assert itself.verdict == "undecided"
    by_logged = replay(log, probabilities(log, target.logged), seed=3)
    assert by_logged.overall == found.overall, "the draw is of the logged action alone"


@pytest.mark.parametrize("users", [0, 60])
def test_estimates_are_unbiased_and_intervals_cover(users: int) -> None:
    truth, values, covered, alone = float((TARGET * MEANS).sum(axis=1).mean()), [], 0, 0
    for seed in range(400):
        log, target = simulate(seed, TARGET, users=users)
        part = replay(log, target, seed=seed).overall
        assert part.interval is not None
        values.append(part.value)
        covered += part.interval[0] <= truth <= part.interval[1]
        single = bandit_log(log.actions, log.rewards, log.propensities, log.positions)
        low, high = replay(single, target, seed=seed).overall.interval or (0, 0)
        alone += low <= truth <= high
    assert abs(np.mean(values) - truth) < 3.5 * np.std(values) / np.sqrt(400)
    assert 0.92 <= covered / 400 <= 0.98
    assert not users or alone / 400 < 0.9, "independent rows are the wrong model here"


def test_logs_that_are_not_uniform_are_refused() -> None:
    action, reward = np.arange(40) % 4, np.arange(40) % 3 == 0
    p = np.full(40, 0.25)
    p[7] = 0.2
    log = bandit_log(action, reward, p)
    with pytest.raises(
        ValueError, match=r"log: row 7: propensity is 0.2, but 0.25 in row 0: .* use `recsys ope`"
    ):
        replay(log, uniform(log))
    log = bandit_log(action, reward, np.full(40, 0.5))
    with pytest.raises(ValueError, match=r"propensity is 0.5 in every row, but 4 actions were logged"):
        replay(log, uniform(log))
    places = np.arange(40) // 20
    action = np.where(places, np.arange(40) % 4, np.arange(40) % 5)  # each position has actions of its own
    log = bandit_log(action, reward, np.where(places, 0.25, 0.2), places)
    table = [[0.2] * 5, [0.25] * 4 + [0]]
    assert len(replay(log, probabilities(log, None, table, places)).positions) == 2


def test_targets_without_support_and_odd_ones_are_refused() -> None:
    log, _ = simulate(0, BEST)
    few = bandit_log(np.arange(40) % 3, np.arange(40) % 2, np.full(40, 0.25))
    with pytest.raises(ValueError, match="no support"):
        replay(few, probabilities(few, None, [[0.5, 0.2, 0.1]], np.zeros(40, int)))
    with pytest.raises(ValueError, match="no overlap"):
        replay(log, probabilities(log, np.zeros(log.rows)))
    with pytest.raises(ValueError, match=r"average 4 ± 0, and at most 1 is possible"):
        replay(log, probabilities(log, np.ones(log.rows)))
    with pytest.raises(ValueError, match="level is 0"):
        replay(log, uniform(log), level=0)


def test_too_little_is_told() -> None:
    log, target = simulate(0, BEST, 200)
    found = replay(log, target)
    assert found.verdict == "unreliable"
    assert found.overall.note.endswith("rows kept: too few to rely on")
    rare = bandit_log(np.arange(2000) % 4, np.arange(2000) % 333 == 1, np.full(2000, 0.25))
    found = replay(rare, uniform(rare))
    assert "effective rewards" in found.overall.note
    never = bandit_log(np.arange(2000) % 4, np.arange(2000) % 4 == 1, np.full(2000, 0.25))
    found = replay(never, probabilities(never, None, [[1, 0, 0, 0]], np.zeros(2000, int)))
    assert found.overall.value == 0
    assert found.overall.interval is None
    assert found.overall.note == "every kept reward is 0: no error can be estimated"


def test_a_low_mean_weight_gives_no_verdict() -> None:
    rows = np.arange(800)
    log = bandit_log(rows % 2, rows // 2 % 3 == 0, np.full(800, 0.5))
    own = np.where(rows // 2 % 4 == 0, 1, 0.3)  # weights 2 and 0.6, average 0.95
    own[:36] = 0
    target = probabilities(log, own)
    found = replay(log, target)
    assert found.overall.matched > 200
    assert found.overall.note.startswith("weights average 0.9")
    assert found.verdict == "unreliable"
    assert found.overall.note in replay_summary(found)


def test_a_report_of_nothing_kept_has_no_picture(tmp_path: Path) -> None:
    log = bandit_log([0, 1, 0, 1], [0, 1, 1, 0], [0.5] * 4)
    seed = next(s for s in range(1000) if (np.random.default_rng(s).random(4) >= 0.5).all())
    found = replay(log, uniform(log), seed=seed)
    assert found.overall.matched == 0
    write_replay(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no row is kept: the target never chose what was logged" in text
    assert "data:image" not in text


def test_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(0, 4, 3000)
    data = pl.DataFrame(
        {
            "row_id": np.arange(3000),
            "item_id": item,
            "click": (rng.random(3000) < 0.1 + 0.15 * item).astype(int),
            "pscore": np.full(3000, 0.25),
            "user": rng.integers(0, 400, 3000),
        }
    )
    log, policy, report = tmp_path / "log.csv", tmp_path / "policy.csv", tmp_path / "out" / "report.html"
    data.write_csv(log)
    data.select("row_id", **{str(a): pl.lit(float(a == 3)) for a in range(4)}).write_csv(policy)

    def invoke(*arguments: Any) -> str:
        command = ["replay", str(log), *map(str, arguments), "--report", str(report)]
        result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    found = json.loads(invoke("--policy", policy, "--json"))
    assert found["verdict"] == "better"
    assert found["overall"]["matched"] == (item == 3).sum()
    assert found["overall"]["value"] == pytest.approx(data.filter(item_id=3)["click"].mean())
    assert found["overall"]["clusters"] <= 400
    text = report.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == HAS_PICTURES
    assert found["summary"] in text
    assert ": better, " in " ".join(invoke("--policy", policy).split())
    with pytest.raises(ValueError, match="no policy to replay"):
        invoke()
