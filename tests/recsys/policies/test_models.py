"""Models of the engine as target policies and as reward models: what they predict, what is kept, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from typer.testing import CliRunner

from recsys import cli
from recsys.config import ConfigError, ExperimentConfig, parse_experiment
from recsys.evaluation.off_policy.estimators import evaluate_policy
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.policies import epsilon_greedy, softmax
from recsys.evaluation.off_policy.reward import folds_of, model_of
from recsys.evaluation.off_policy.target import uniform
from recsys.policies import models as off_policy_models
from recsys.policies.contexts import predict_actions, read_contexts
from recsys.policies.log import read_log
from recsys.policies.models import cross_fitted, held_out_rows, policy_of, trained_on
from recsys.serving.scoring import score_file
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine

MEANS = np.array([0.1, 0.2, 0.4, 0.6])  # of a click by item; turned round for half of the groups
FEATURES = [{"kind": "categorical", "names": ["item_id", "group", "kind"]}]


def bandit(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    """Uniform choices of four items, each of a kind, for users of two groups who like opposite items."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 200, rows)
    item = rng.integers(0, 4, rows)
    group = user % 2
    click = rng.random(rows) < np.where(group == 1, MEANS[item], MEANS[3 - item])
    return pl.DataFrame(
        {
            "item_id": item,
            "kind": [f"k{i // 2}" for i in item],
            "group": [f"g{g}" for g in group],
            "position": rng.integers(1, 3, rows),
            "click": click.astype(int),
            "propensity_score": np.full(rows, 0.25),
            "user_id": user,
        }
    )


def config_on(path: Path, features: list[dict[str, Any]] = FEATURES, **data: Any) -> ExperimentConfig:
    raw = {
        "name": "clicks",
        "data": {
            "source": "table",
            "path": str(path),
            "label": {"column": "click"},
            "split": {"by": "random"},
            **data,
        },
        "features": [*features, {"kind": "cross", "name": "both", "columns": ["item_id", "group"]}],
        "tables": {"scheme": "full", "embedding_dim": 4},
        "model": {"name": "lr"},
        "training": {"batch_size": 128, "epochs": 4, "table_lr": 0.1, "dense_lr": 0.05},
    }
    return parse_experiment(raw, "clicks.yaml")


@pytest.fixture(scope="module", params=["parquet", "csv"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / f"log.{request.param}"
    getattr(bandit(), f"write_{request.param}")(path)
    return path


@pytest.fixture(scope="module")
def run(path: Path) -> Run:
    config = config_on(path)
    return train(config, prepare(config.data, config.features, path.parent / "p"), path.parent / "r")


@pytest.fixture(scope="module")
def log(path: Path) -> Log:
    return read_log(path)


def test_every_action_is_predicted_as_if_it_had_been_logged(run: Run, path: Path, log: Log) -> None:
    contexts = read_contexts(run.config, path, log)
    assert contexts.attributes == ["kind"]
    rows = np.array([5, 17, 400, 2999])
    found = predict_actions(run, contexts, rows)
    for action in range(4):
        other = bandit()[rows].with_columns(item_id=pl.lit(action), kind=pl.lit(f"k{action // 2}"))
        file = path.parent / f"one{path.suffix}"
        getattr(other, f"write_{path.suffix[1:]}")(file)
        ((_, predictions),) = score_file(run, file, labelled=False, quarantine=Quarantine())
        np.testing.assert_allclose(found[:, action], predictions, rtol=1e-6)


def test_a_run_is_a_policy_by_a_rule_and_is_not_judged_on_what_it_has_seen(
    run: Run, path: Path, log: Log
) -> None:
    held = read_log(path, rows=held_out_rows(run))
    assert held.rows == len(held_out_rows(run)) < log.rows
    np.testing.assert_array_equal(held.rewards, run.predictions()["label"].to_numpy())
    scores = predict_actions(run, read_contexts(run.config, path, held), np.arange(held.rows))
    logged = scores[np.arange(held.rows), held.actions]
    np.testing.assert_allclose(logged, run.predictions()["prediction"].to_numpy(), rtol=1e-6)
    target = policy_of(run, path, held, greedy=0.2)
    assert target.table is not None
    np.testing.assert_allclose(target.table, epsilon_greedy(scores, 0.2))
    assert target.name == "clicks, 0.2-greedy"
    np.testing.assert_allclose(policy_of(run, path, held, temperature=2.0).table, softmax(scores, 2.0))
    with pytest.raises(ValueError, match=r"was trained on log.* has seen 2,[67]\d\d of these 3,000 rows"):
        policy_of(run, path, log, greedy=0.2)
    for both in ({}, {"greedy": 0.1, "temperature": 1.0}):
        with pytest.raises(ValueError, match="--greedy EPSILON or --softmax TEMPERATURE, one of the two"):
            policy_of(run, path, held, **both)


def test_a_file_of_the_folder_that_a_run_was_trained_on_is_refused(run: Run, path: Path) -> None:
    def trained_on_data_at(place: Path) -> Run:
        data = run.config.data.model_copy(update={"path": place})
        return replace(run, config=run.config.model_copy(update={"data": data}))

    assert trained_on(run, path)
    assert not trained_on(trained_on_data_at(path.parent / "p"), path)
    with pytest.raises(ValueError, match=r"log.* was trained on the folder it is in, .*cannot be told: use"):
        trained_on(trained_on_data_at(path.parent), path)


def test_each_fold_is_predicted_by_a_model_of_the_others_and_finished_ones_are_kept(
    path: Path, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[pl.DataFrame] = []
    trained: list[Run] = []

    def counted(config: ExperimentConfig, *rest: Any, **options: Any) -> Run:
        assert isinstance(config.data.path, Path)
        read = pl.read_csv if path.suffix == ".csv" else pl.read_parquet
        seen.append(read(config.data.path))
        trained.append(train(config, *rest, **options))
        return trained[-1]

    monkeypatch.setattr(off_policy_models, "train", counted)
    config, target = config_on(path), uniform(log)
    stages: set[str] = set()
    model = cross_fitted(config, path, log, target, tmp_path, folds=3, progress=lambda s, *_: stages.add(s))
    fold = folds_of(log, 3)
    assert len(seen) == 3
    assert {stage.split(":")[0] for stage in stages} == {f"fold {k} of 3" for k in (1, 2, 3)}
    contexts = read_contexts(config, path, log)
    for k in range(3):
        assert seen[k].equals(bandit().filter(pl.Series(fold != k)))
        assert not set(seen[k]["user_id"]) & set(bandit().filter(pl.Series(fold == k))["user_id"])
        rows = np.flatnonzero(fold == k)
        q = predict_actions(trained[k], contexts, rows)
        np.testing.assert_allclose(model.logged[rows], q[np.arange(len(rows)), log.actions[rows]], rtol=1e-6)
        np.testing.assert_allclose(model.policy[rows], q.mean(axis=1), rtol=1e-6)
    assert model.description == "clicks (lr), 3-fold out of fold; kind changed with the action"

    next(tmp_path.glob("*/fold-1/predictions.npy")).unlink()
    again = cross_fitted(config, path, log, target, tmp_path, folds=3)
    assert len(trained) == 4
    assert trained[3].path == trained[1].path, "its finished run was taken as it is"
    np.testing.assert_array_equal(again.logged, model.logged)
    np.testing.assert_array_equal(
        cross_fitted(config, path, log, target, tmp_path, folds=3).policy, model.policy
    )
    assert len(trained) == 4

    found = evaluate_policy(log, target, model=model)
    plain = evaluate_policy(log, target)
    assert found.overall["dr"].standard_error < 0.97 * plain.overall["dr"].standard_error
    assert "bias and error of training are not in the interval" in found.overall["dm"].note


def test_what_a_source_keeps_beside_the_log_follows_the_action(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    times = pl.lit("2019-11-24 00:00:17.004101+00:00")
    data = bandit(600).drop("kind").with_columns(timestamp=times).with_row_index("")
    data.write_csv(path)
    (tmp_path / "item_context.csv").write_text(",item_id,kind\n0,0,k0\n1,1,k0\n2,2,k1\n3,3,k1\n")
    config = config_on(path, source="open_bandit")
    log = read_log(path)
    model = cross_fitted(config, path, log, uniform(log), tmp_path / "runs", folds=2)
    assert model.description == "clicks (lr), 2-fold out of fold", "kinds come from the other file"
    (folder,) = (tmp_path / "runs").glob("*/fold-0")
    run = Run.open(next(folder.glob("runs/*/seed-0")))
    rows = np.flatnonzero(folds_of(log, 2) == 0)
    found = predict_actions(run, read_contexts(run.config, path, log), rows)
    np.testing.assert_allclose(found[np.arange(len(rows)), log.actions[rows]], model.logged[rows], rtol=1e-6)
    data[rows].with_columns(item_id=pl.lit(3)).write_csv(path)
    ((_, predictions),) = score_file(run, path, labelled=False, quarantine=Quarantine())
    np.testing.assert_allclose(found[:, 3], predictions, rtol=1e-6)


def test_a_row_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    data = bandit(1000).with_columns(age=pl.lit("7"))
    data[412, "age"] = "old"
    data.write_csv(path)
    config = config_on(path, [*FEATURES, {"kind": "numeric", "names": ["age"], "standardise": False}])
    log = read_log(path)
    with pytest.raises(
        ValueError, match=r"log.csv: row 412 \(line 414\): age is old: .*; .* cannot score it"
    ):
        cross_fitted(config, path, log, uniform(log), tmp_path / "runs", folds=2)


def test_a_model_of_predictions_is_checked(log: Log) -> None:
    q = np.random.default_rng(0).random((log.rows, 4))
    model = model_of(log, uniform(log), q, "given")
    np.testing.assert_allclose(model.policy, q.mean(axis=1))
    np.testing.assert_array_equal(model.logged, q[np.arange(log.rows), log.actions])
    with pytest.raises(ValueError, match=r"given: predictions have shape \(3000, 3\)"):
        model_of(log, uniform(log), q[:, :3], "given")
    q[5, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        model_of(log, uniform(log), q, "given")
    with pytest.raises(ValueError, match="needs the probabilities of all actions"):
        model_of(log, replace(uniform(log), table=None), q, "given")


def test_models_that_cannot_serve_are_refused(path: Path, log: Log, tmp_path: Path) -> None:
    def refused(config: ExperimentConfig, message: str, own: Log = log) -> None:
        with pytest.raises(ValueError, match=message):
            cross_fitted(config, path, own, uniform(own), tmp_path)

    action_free = config_on(path).replace({"features": [FEATURES[0] | {"names": ["group"]}]})
    refused(action_free, "no feature reads 'item_id', so every action would be predicted the same")
    chance = {"kind": "numeric", "names": ["propensity_score"]}
    refused(
        config_on(path, [*FEATURES, chance]),
        "a feature reads 'propensity_score', the propensity, which is of",
    )
    refused(config_on(path, label={"column": "kind"}), "data.label is 'kind', and the reward is 'click'")
    refused(config_on(path, label={"column": "click", "threshold": 1.0}), "data.label is 'click' from 1 on")
    line = r" \(line 2\)" if path.suffix == ".csv" else ""
    refused(
        config_on(path),
        rf"row 0{line}: click is [34]: models of this engine predict clicks",
        replace(log, rewards=log.rewards + 3),
    )
    history = {"kind": "sequence", "name": "seen", "column": "item_id"}
    with pytest.raises(ConfigError, match="feature 'seen' is a user's earlier events"):
        read_contexts(config_on(path, [*FEATURES, history]), path, log)


scores = arrays(
    float, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8), elements=st.floats(0, 1, width=32)
)


@given(scores, st.floats(0, 1))
def test_greedy_is_the_rule_row_by_row(scores: np.ndarray, epsilon: float) -> None:
    for row, found in zip(scores, epsilon_greedy(scores, epsilon), strict=True):
        best = [a for a, score in enumerate(row) if score == max(row)]
        expected = [epsilon / len(row) + (1 - epsilon) * (a in best) / len(best) for a in range(len(row))]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@given(scores, st.floats(0.05, 20))
def test_softmax_is_the_rule_and_keeps_the_order(scores: np.ndarray, temperature: float) -> None:
    found = softmax(scores, temperature)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    inner = np.clip(scores, 0.001, 0.999)
    odds = (inner / (1 - inner)) ** (1 / temperature)
    np.testing.assert_allclose(softmax(inner, temperature), odds / odds.sum(axis=1, keepdims=True), rtol=1e-9)
    order = np.argsort(scores, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(found, order, axis=1), axis=1) >= -1e-12).all()


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (epsilon_greedy, -0.1, "ε is -0.1"),
        (epsilon_greedy, 1.1, "ε is 1.1"),
        (softmax, 0.0, "the temperature is 0.0"),
        (softmax, np.inf, "the temperature is inf"),
    ],
)
def test_rules_refuse_numbers_that_mean_nothing(
    rule: Callable[[np.ndarray, float], np.ndarray], value: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rule(np.full((2, 3), 0.5), value)


@pytest.mark.parametrize("path", ["csv"], indirect=True)
def test_command(run: Run, path: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump(config_on(path).model_dump(mode="json")))
    fresh = tmp_path / f"fresh{path.suffix}"
    getattr(bandit(seed=1), f"write_{path.suffix[1:]}")(fresh)

    def invoke(*arguments: Any) -> Any:
        command = [*map(str, arguments), "--report", str(tmp_path / "r.html"), "--json"]
        result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout)

    policy = ("--policy", run.path, "--greedy", 0)
    found = invoke("ope", fresh, *policy, "--reward-model", model, "--runs", tmp_path / "runs")
    assert found["verdict"] == "better"
    assert found["reward_model"].startswith("clicks (lr), 5-fold out of fold")
    replayed = invoke("replay", fresh, *policy)
    estimates = {e["estimator"]: e["value"] for e in found["overall"]["estimates"]}
    assert replayed["overall"]["value"] == pytest.approx(estimates["snips"])
    assert 0.5 < estimates["dr"] < 0.7, "the best item of each group pleases 0.6"
    held = invoke("ope", path, *policy, "--test-rows")
    assert held["overall"]["rows"] == len(held_out_rows(run))
    for arguments, message in [
        (("ope", fresh, *policy, "--test-rows"), "not on .*fresh"),
        (("ope", fresh, "--policy", "uniform", "--test-rows"), "--test-rows are those of a run"),
        (("ope", fresh, "--policy", "uniform", "--greedy", 0.1), "uniform is no run's folder"),
        (("ope", fresh, "--policy", run.path), "say how with --greedy EPSILON or --softmax"),
        (("ope", fresh, "--policy", tmp_path, "--greedy", 0), "not a finished run"),
    ]:
        with pytest.raises(ValueError, match=message):
            invoke(*arguments)
