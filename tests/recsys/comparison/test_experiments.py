"""Comparisons from YAML-like settings to the report: tuned alike, resumable, honest about what did not fit."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recsys.comparison.budgets import with_budgets
from recsys.comparison.candidates import draw_candidates
from recsys.comparison.cost import cost_if_long, expected_cost
from recsys.comparison.experiments import Arm, Result, run_comparison
from recsys.comparison.pool import training_pool
from recsys.config import ConfigError, ExperimentConfig, parse_experiment
from recsys.planning import plan_of
from recsys.reports.experiments import _title, result_answer, summary, table_rows, verdict, write_report
from recsys.tuning.trials import NothingFits, Trial, best, candidates, run_trial
from recsys_cython_ext.progress import no_progress
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepare import prepare

BASE: dict[str, Any] = {
    "name": "full",
    "data": {
        "source": "generated",
        "generator": {
            "rows": 6000,
            "history": 0,
            "fields": [
                {"name": "user_id", "num_ids": 200, "zipf": 0.5},
                {"name": "item_id", "num_ids": 1000, "zipf": 1.0},
            ],
        },
        "user": "user_id",
        "truth": "true_probability",
    },
    "features": [{"kind": "categorical", "names": ["user_id", "item_id"]}],
    "tables": {"scheme": "full", "embedding_dim": 8, "budget_embedding_dim": 8},
    "model": {"name": "fm"},
    "training": {"batch_size": 256, "epochs": 1},
    "evaluation": {"replicates": 100},
}


def experiment(**changes: Any) -> ExperimentConfig:
    return parse_experiment({**BASE, **changes}, "test")


def unified(budget: str = "30%", **changes: Any) -> ExperimentConfig:
    return experiment(
        name="unified",
        features=[{**BASE["features"][0], "encoding": "hash"}],
        tables={
            "scheme": "unified",
            "embedding_dim": 8,
            "chunk_dim": 4,
            "budget": budget,
            "budget_embedding_dim": 8,
        },
        **changes,
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparing")


SEARCH = {"trials": 2, "space": {"training.table_lr": [0.02, 0.1], "features.min_count": [1, 3]}}


@pytest.fixture(scope="module")
def arms() -> list[ExperimentConfig]:
    search = {"trials": 2, "space": {"training.table_lr": [0.02, 0.1]}}
    return [
        experiment(tuning=SEARCH),
        unified(tuning=search),
        experiment(name="too_small", tables={**BASE["tables"], "budget": "1%"}, tuning=search),
    ]


@pytest.fixture(scope="module")
def result(arms: list[ExperimentConfig], work: Path) -> Result:
    return run_comparison(arms, seeds=2, runs=work / "runs", prepared=work / "prepared", jobs=2)


def test_both_arms_are_trained_paired_and_judged(result: Result) -> None:
    rows = table_rows(result)
    assert [row["arm"] for row in rows] == ["full", "unified"]
    assert [len(arm.runs) for arm in result.arms] == [2, 2]
    assert rows[1]["share"] == pytest.approx(0.3, abs=0.01)
    assert rows[0]["auc"] == pytest.approx(
        sum(run.metrics["test"]["auc"] for run in result.arms[0].runs) / 2, abs=1e-12
    )
    assert rows[0]["auc_below_best"] > 0
    assert {d.arm for d in result.overall.differences} == {"unified"}
    assert len(verdict(result)) == 1
    assert "0 arms are better" in summary(result)
    assert (
        f"{rows[1]['bytes']['total']:,} bytes" in summary(result) or rows[1]["auc_change"].verdict == "worse"
    )


def test_every_arm_gets_the_same_number_of_trials_and_the_best_on_validation_goes_on(result: Result) -> None:
    for arm in result.arms:
        assert len(arm.trials) == 2
        lowest = min(arm.trials, key=lambda trial: trial["logloss"])
        assert arm.settings == lowest["settings"]


def test_an_arm_that_fits_no_budget_is_named_not_dropped_in_silence(result: Result, work: Path) -> None:
    assert set(result.left_out) == {"too_small"}
    assert "smaller embedding_dim" in result.left_out["too_small"]
    write_report(result, work / "report.html")
    assert "Left out: too_small: none" in (work / "report.html").read_text()


def test_the_report_needs_nothing_beside_it(result: Result, work: Path) -> None:
    write_report(result, work / "report.html")
    html = (work / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 5
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", html)
    assert "http" not in html.replace("http-equiv", "")
    answer, picture = html.index(result_answer(result)), html.index("Quality against bytes")
    assert answer < picture < html.index("<h2>Details") < html.index("What this much data can find")
    for text in ("unified", "best possible", "rows in", "Validation trials per arm: 2", "training.table_lr"):
        assert text in html
    assert not list(work.glob("*.tmp"))


@pytest.mark.parametrize(
    ("arms", "title"),
    [
        ([experiment(), unified()], "2 arms: 2 table schemes, 2 budgets"),
        ([unified("30%"), unified("10%"), experiment()], "3 arms: 2 table schemes, 3 budgets"),
        (
            [experiment(), experiment(features=[{"kind": "categorical", "names": ["user_id"]}])],
            "2 arms: 2 sets of features",
        ),
        ([experiment(), experiment(model={"name": "lr"})], "2 arms: 2 models"),
        ([experiment(), experiment(training={"epochs": 2})], "2 arms"),
    ],
)
def test_the_title_says_what_differs(arms: list[ExperimentConfig], title: str) -> None:
    named = [Arm(config.name, config.tables.budget, config, {}, [], []) for config in arms]
    assert _title(named) == f"Comparison of {title}"


def files(folder: Path) -> dict[Path, int]:
    """When each file was written; a lock holds nothing."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_finished_comparison_is_not_run_again(
    result: Result, arms: list[ExperimentConfig], work: Path
) -> None:
    before = files(work / "runs")
    again = run_comparison(arms, seeds=2, runs=work / "runs", prepared=work / "prepared", jobs=1)
    after = files(work / "runs")
    assert after == before
    assert again.overall == result.overall


def test_what_is_trained_is_not_in_the_cost(
    result: Result, arms: list[ExperimentConfig], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, prepared = work / "runs", work / "prepared"
    drawn, _ = draw_candidates(arms, prepared, runs, no_progress, no_progress)
    assert cost_if_long(drawn, 3, runs, 2) is None, "too little to be measured"
    monkeypatch.setattr("recsys.comparison.cost.LONG_ROWS", 1)
    assert cost_if_long(drawn, 2, runs, 2) is None, "everything is there"
    cost = cost_if_long(drawn, 5, runs, 2)
    assert cost is not None
    assert cost.runs == {"teachers": 0, "validation trials": 0, "training runs": 2 * 3}
    assert min(cost.seconds, cost.memory, cost.disk) > 0
    everything = expected_cost(arms, 2, work / "others", prepared, 2, no_progress, no_progress)
    assert everything.runs == {"teachers": 0, "validation trials": 2 * 2, "training runs": 2 * 2}
    assert not (work / "others").exists()


def test_candidates_fit_their_budget_and_are_a_function_of_the_seed(work: Path) -> None:
    config = experiment(
        tables={**BASE["tables"], "budget": "40%"},
        tuning={
            "trials": 6,
            "space": {"tables.embedding_dim": [4, 8], "features.min_count": [1, 2, 4, 8, 16]},
        },
    )
    drawn = [candidates(config, lambda c: prepare(c.data, c.features, work / "prepared")) for _ in range(2)]
    assert [c.settings for c in drawn[0]] == [c.settings for c in drawn[1]]
    assert len({str(c.settings) for c in drawn[0]}) == len(drawn[0]) > 1
    for candidate in drawn[0]:
        plan = plan_of(candidate.config, Features.load(candidate.prepared / "features"))
        assert plan.bytes.total <= 0.4 * plan.full_bytes
        assert candidate.config.training.seed == config.tuning.training_seed


def test_nothing_fits_says_what_would(work: Path) -> None:
    config = experiment(tables={**BASE["tables"], "budget": "100B"})
    with pytest.raises(NothingFits, match=r"full: none of its settings fits the budget.*min_count"):
        candidates(config, lambda c: prepare(c.data, c.features, work / "prepared"))


def trained(config: ExperimentConfig, work: Path) -> Trial:
    (candidate,) = candidates(config, lambda c: prepare(c.data, c.features, work / "prepared"))
    return run_trial(candidate, work / "runs")


def evaluated(auc: float, logloss: float) -> Trial:
    return Trial(
        0, "", {}, [{"epoch": 1.0, "validation_auc": auc, "validation_logloss": logloss}], "finished"
    )


def test_trials_never_read_the_test_rows(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = Rows.load.__func__  # type: ignore[attr-defined]

    def watched(cls: type[Rows], prepared: Path, split: str) -> Rows:
        loaded.append(split)
        return load(cls, prepared, split)

    monkeypatch.setattr(Rows, "load", classmethod(watched))
    config = experiment(tuning={"training_seed": 77})
    assert trained(config, work).best(config)["rows"] == 600
    assert loaded == ["train", "validation"]


def test_a_trial_that_diverges_is_kept_out_and_not_the_end(work: Path) -> None:
    wild = {**BASE["training"], "dense_lr": 1e38, "table_lr": 1e38}
    trial = trained(experiment(training=wild), work)
    assert trial.end == "diverged"
    assert "training loss" in trial.why
    assert best(experiment(), ["a", "b"], [trial, evaluated(0.6, 9.0)]) == "b"  # type: ignore[comparison-overlap, list-item]
    with pytest.raises(ConfigError, match=r"every trial diverged: .*training loss"):
        best(experiment(), ["a"], [trial])  # type: ignore[list-item]


def test_one_seed_is_said_to_cover_rows_only(
    result: Result, arms: list[ExperimentConfig], work: Path
) -> None:
    one = run_comparison(arms, seeds=1, runs=work / "runs", prepared=work / "prepared", jobs=1)
    assert "one seed" in verdict(one)[0]
    write_report(one, work / "one.html")
    assert "with one seed the spread over seeds is unknown" in (work / "one.html").read_text()


def test_best_reads_the_monitored_metric() -> None:
    trials = [evaluated(0.7, 0.5), evaluated(0.8, 0.6)]
    by_logloss = experiment()
    by_auc = experiment(training={**BASE["training"], "monitor": "auc"})
    assert best(by_logloss, ["a", "b"], trials) == "a"  # type: ignore[comparison-overlap, list-item]
    assert best(by_auc, ["a", "b"], trials) == "b"  # type: ignore[comparison-overlap, list-item]


def test_budgets_multiply_arms() -> None:
    arms = with_budgets([experiment(), unified()], ["100%", "3%"])
    assert [arm.name for arm in arms] == ["full@100%", "unified@100%", "full@3%", "unified@3%"]
    assert [arm.tables.budget for arm in arms] == ["100%", "100%", "3%", "3%"]


def test_arms_that_cannot_be_compared_are_refused(work: Path) -> None:
    other = {**BASE["data"], "generator": {**BASE["data"]["generator"], "seed": 1}}
    for arms, message in [
        ([experiment(), experiment()], "full stands twice"),
        ([experiment(), unified(data=other)], "unified: its data differs from full's in generator"),
        ([experiment(), unified("1B")], "too few"),
        ([experiment()], "at least two arms"),
        ([experiment(), unified(tuning={"trials": 3})], r"unified: tuning\.trials is 3, but 1 in full"),
        ([experiment(), unified(training={"monitor": "auc"})], "training.monitor is auc"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run_comparison(arms, 1, work / "runs", work / "prepared")


def test_threads_of_workers_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")  # `conftest` has set it
    with training_pool([experiment()], 1):  # its processes have the environment of this one
        assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from recsys.comparison.pool import _end_with_parent
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    killed = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=False)
    worker = int(killed.stdout)
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
