"""The simulated comparisons of `benchmarks/calibration.py`: is their truth true, and do the tables count rightly?"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.comparison.judge import Options, judge
from recsys.comparison.predictions import Predictions
from recsys.evaluation import metrics

PATH = Path(__file__).parents[3] / "benchmarks" / "calibration.py"
SPEC = importlib.util.spec_from_file_location("calibration", PATH)
calibration = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = calibration
SPEC.loader.exec_module(calibration)

ORACLES = {
    "auc": lambda y, p, user: metrics.auc(y, p),
    "gauc": lambda y, p, user: metrics.gauc(y, p, user).value,
    "logloss": lambda y, p, user: metrics.logloss(y, p),
    "ne": lambda y, p, user: metrics.normalized_entropy(y, p),
    "calibration": lambda y, p, user: metrics.calibration(y, p),
}


def hand_made_pool(rng, runs=6, users=9):
    """Users of 1 to 9 rows, of both classes from two rows on; predictions tell run and row apart."""
    starts = np.r_[0, np.cumsum(np.arange(1, users + 1))]
    labels = (np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))) % 2
    predictions = rng.random((runs, labels.size))
    users = np.repeat(np.arange(users), np.diff(starts))
    found = {
        name: np.array([oracle(labels, p, users) for p in predictions]) for name, oracle in ORACLES.items()
    }
    return calibration.Pool(predictions, labels, starts, found)


@pytest.mark.parametrize(("rate", "seeds"), [(0.2, 1), (0.2, 5), (0.03, 5), (0.003, 1)])
def test_arms_of_a_generated_world_have_the_same_expected_metrics(rate, seeds):
    world = calibration.GENERATED[f"{100 * rate:g} %, {seeds} seed{'s' if seeds > 1 else ''}"]
    rng = np.random.default_rng(1)
    differences, rates = [], []
    for _ in range(60):
        sample = world.sample(rng)
        values = {
            arm: [
                np.mean([ORACLES[name](sample.labels, p, sample.users) for p in predictions])
                for name in ("auc", "logloss", "calibration")
            ]
            for arm, predictions in sample.arms.items()
        }
        differences.append(np.subtract(values["b"], values["a"]))
        rates.append(sample.labels.mean())
        assert all(
            np.unique(predictions[0]).size < sample.labels.size / 20 for predictions in sample.arms.values()
        )
        sizes = np.bincount(sample.users)
        assert sizes.max() > 6 * np.median(sizes)
    error = np.std(differences, axis=0, ddof=1) / np.sqrt(len(differences))
    assert (np.abs(np.mean(differences, axis=0)) < 4 * error).all()
    assert np.mean(rates) == pytest.approx(rate, rel=0.1)


def test_a_sample_of_real_runs_has_whole_users_and_the_pools_truth(monkeypatch):
    monkeypatch.setattr(calibration, "SAMPLED_USERS", 40)
    rng = np.random.default_rng(0)
    left, right = hand_made_pool(rng), hand_made_pool(rng)
    for first, second in ((left, left), (left, right)):
        sample = calibration.Trained(first, second, seeds=3).sample(rng)
        by_arm = np.reshape(sample.runs, (2, 3)) % 6
        assert (np.ravel(by_arm) == sample.runs).all() == (first is second)
        for name, pool, runs in zip("ab", (first, second), by_arm, strict=True):
            where = np.argsort(pool.predictions[runs[0]])
            rows = where[np.searchsorted(pool.predictions[runs[0]], sample.arms[name][0], sorter=where)]
            assert (sample.arms[name] == pool.predictions[np.ix_(runs, rows)]).all()
            assert (sample.labels == pool.labels[rows]).all()
            for user in range(40):
                mine = rows[sample.users == user]
                owner = np.searchsorted(pool.starts, mine[0], side="right") - 1
                assert mine.tolist() == [*range(pool.starts[owner], pool.starts[owner + 1])]
        if first is second:
            assert len({*sample.runs}) == 6
            assert set(sample.truth.values()) == {0.0}
        else:
            known = {m: right.metrics[m].mean() - left.metrics[m].mean() for m in ORACLES}
            means = [pool.metrics["calibration"].mean() for pool in (right, left)]
            known["calibration"] = abs(means[0] - 1) - abs(means[1] - 1)
            assert sample.truth == pytest.approx(known)


def test_a_pool_holds_what_the_engines_runs_predict(configure, tmp_path):
    pool = calibration.Pool.trained(configure({"training.epochs": 1}, model={"name": "lr"}), 2, tmp_path)
    users = np.repeat(np.arange(pool.starts.size - 1), np.diff(pool.starts))
    assert pool.starts[-1] == pool.labels.size
    assert (pool.predictions[0] != pool.predictions[1]).any()
    for name, oracle in ORACLES.items():
        again = [oracle(pool.labels, p, users) for p in pool.predictions]
        assert pool.metrics[name] == pytest.approx(again, rel=1e-6)


def test_what_is_simulated_is_what_compare_says(tmp_path):
    sample = calibration.Generated(bias=-1, users=60, seeds=2).sample(np.random.default_rng(0))
    arms = {}
    for name, predictions in sample.arms.items():
        arms[name] = [Predictions(tmp_path / f"{name}{seed}.parquet") for seed in range(2)]
        for place, p in zip(arms[name], predictions, strict=True):
            pq.write_table(calibration._table(p, sample.labels, sample.users), place.path)
    said = judge(arms, Options(replicates=50)).comparison.differences
    found = calibration.judged(sample, replicates=50, seed=0)
    assert {d.metric: (d.interval, d.bca_interval, d.p_value) for d in said} == {
        metric: (f["compare"], f["bca"], f["p"]) for metric, f in found.items()
    }


def test_comparisons_go_on_where_they_were(tmp_path):
    worlds = {
        "one": calibration.Generated(-1, 30, 1).sample,
        "five": calibration.Generated(-1, 30, 5).sample,
    }
    straight = calibration.simulate(worlds, 4, 10)
    kept = tmp_path / "kept.jsonl"
    calibration.simulate(worlds, 2, 10, kept)
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # killed while it wrote the fourth
    resumed = calibration.simulate(worlds, 4, 10, kept)
    assert json.loads(json.dumps(resumed)) == json.loads(json.dumps(straight))
    assert len(kept.read_text().splitlines()) == 8
    assert [len(calibration.simulate({"five": worlds["five"]}, 3, 10, kept))] == [3]


def record(world, metric, interval, truth=0.0, p=0.5, runs=(), **others):
    return {
        "world": world,
        "runs": [*runs],
        "found": {metric: {"truth": truth, "compare": interval, "p": p, **others}},
    }


def test_misses_are_counted():
    records = [
        record("null", "auc", (-1, 1), bca=(0.5, 1), delong=(0.1, 1), p=0.04),
        record("null", "auc", (0.1, 1), bca=None, delong=(0.1, 1), p=0.01),
        record("null", "auc", (-1, -0.1), bca=(-1, 1), delong=(-1, 1), rows=(-1, 1)),
        record("null", "auc", (0, 1), bca=(-1, 1), delong=(-1, -0.1)),
        record("gap", "calibration", (0, 1), truth=0.5),
        record("gap", "calibration", (0, 1), truth=2.0),
    ]
    null, gap = calibration.summary(records)
    assert (null["world"], null["metric"], null["sims"]) == ("null", "auc", 4)
    assert (null["compare"], null["verdict"]) == (0.5, 0.5)
    assert (null["bca"], null["delong"], null["rows"], null["seeds"]) == (1 / 3, 0.75, 0.0, None)
    assert (gap["compare"], gap["verdict"], gap["bca"], gap["widening"]) == (0.5, None, None, None)
    shown = calibration.table([null | {"compare": 0.05}, null | {"sims": 2500, "compare": 0.07}])
    assert [*shown.columns[2].cells] == ["5.0", "7.0 !"]
    assert [*shown.columns[3].cells] == ["10.9", "0.5"]


def test_shared_runs_widen_the_monte_carlo_error():
    rng = np.random.default_rng(0)

    def widening(missed):
        draws = [rng.choice(40, 4, replace=False) for _ in range(2000)]
        records = [record("w", "auc", (0.1, 1) if missed(d) else (-1, 1), runs=d.tolist()) for d in draws]
        return calibration.summary(records)[0]["widening"]

    assert widening(lambda runs: rng.random() < 0.05) < 1.5
    # P(miss) is 4 in 40: given run 0 it is 1, else 3 / 39, so ζ = 0.0216 and the ratio √(1 + 16 ζ / 40 / (0.09 / 2000))
    assert widening(lambda runs: 0 in runs) == pytest.approx(13.9, rel=0.15)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_intervals_miss_in_one_of_twenty_and_those_of_rivals_more_often():
    names = ("20 %, 5 seeds", "3 %, 1 seed")
    worlds = {name: calibration.GENERATED[name].sample for name in names}
    rows = calibration.summary(calibration.simulate(worlds, 300, 100))
    assert len(rows) == 10
    for row in rows:
        assert 0.025 <= row["compare"] <= 0.085, row  # two standard errors below 5 %, nearly three above
    auc = rows[0]
    assert auc["delong"] > 0.08
    assert auc["seeds"] > 0.4
