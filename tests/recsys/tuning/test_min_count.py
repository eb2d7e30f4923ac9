"""The smallest minimum count that fits a budget: computed from counts alone, and what the tables then really take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.comparison.budgets import with_budgets
from recsys.config import ConfigError, ExperimentConfig, load_experiment
from recsys.planning import plan_of
from recsys.reports.pictures.tuning import parallel_picture
from recsys.reports.tuning import best_yaml, trials_sheet
from recsys.tuning.min_count import smallest_min_count
from recsys.tuning.study import Study, opened
from recsys.tuning.trials import NothingFits, Trial, candidates
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.planning.plan import BudgetError, TablePlan

Configure = Callable[..., ExperimentConfig]
ROOT = Path(__file__).parents[3]
MOVIELENS = ROOT.parent / "shared" / "data" / "ml-100k"
SPACE = {"features.min_count": ["fit"], "tables.embedding_dim": [4, 8], "training.table_lr": [0.02, 0.05]}


@pytest.fixture
def prepared_for(tmp_path: Path) -> Callable[[ExperimentConfig], Prepared]:
    return lambda config: prepare(config.data, config.features, tmp_path / "prepared")


def plan_with(
    config: ExperimentConfig, min_count: int, prepared_for: Callable[[ExperimentConfig], Prepared]
) -> TablePlan:
    """Of a set that is prepared with a minimum count."""
    changed = config.replace({"features.min_count": min_count, "tables.budget": None})
    return plan_of(changed, prepared_for(changed).features())


STATISTIC = {"kind": "statistic", "columns": ["item_id"]}
SEQUENCES = [
    {"kind": "categorical", "names": ["user_id", "item_id"]},
    {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"},
    {"kind": "date", "column": "time", "parts": ["hour"]},
]
BY_TIME = {"user": "user_id", "time": "time", "split": {"by": "time"}}


@pytest.mark.parametrize(
    ("width", "budget", "settings", "sections"),
    [
        (4, "40%", {}, {}),
        (8, "25%", {"features.min_count": 3}, {}),
        (4, "3500B", {}, {}),
        (12, "60%", {"training.table_optimizer": "adagrad"}, {}),
        (4, "40%", {}, {"features": [STATISTIC, {"kind": "categorical", "names": ["user_id", "item_id"]}]}),
        (4, "30%", {}, {"features": SEQUENCES, "data": BY_TIME}),
    ],
)
def test_the_smallest_minimum_count_that_fits(
    configure: Configure,
    log: Path,
    prepared_for: Callable[[ExperimentConfig], Prepared],
    width: int,
    budget: str,
    settings: dict[str, Any],
    sections: dict[str, Any],
) -> None:
    """Against sets that are prepared with it, and with one less."""
    if "data" in sections:
        sections = sections | {"data": {"source": "table", "path": str(log), **sections["data"]}}
    config = configure({"tables.embedding_dim": width, "tables.budget": budget, **settings}, **sections)
    found = smallest_min_count(config, prepared_for(config).path)
    assert found > 1
    fitting = config.replace({"features.min_count": found})
    plan = plan_of(fitting, prepared_for(fitting).features())
    one_more = plan_with(config, found - 1, prepared_for)
    with pytest.raises(BudgetError):
        plan_of(config.replace({"features.min_count": found - 1}), _features(config, found - 1, prepared_for))
    assert plan.full_bytes == one_more.full_bytes
    assert plan.bytes.total < one_more.bytes.total


def _features(config: ExperimentConfig, min_count: int, prepared_for: Any) -> Any:
    changed = config.replace({"features.min_count": min_count})
    return prepared_for(changed).features()


@pytest.mark.parametrize("budget", [None, "100%", "10MB"])
def test_every_id_fits_where_there_is_room(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared], budget: str | None
) -> None:
    config = configure({"tables.budget": budget, "features.min_count": 5, "tables.embedding_dim": 16})
    assert smallest_min_count(config, prepared_for(config).path) == 1


@pytest.mark.parametrize("budget", ["100B", "1%", "150B"])
def test_tables_without_a_single_id_are_no_rival(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared], budget: str
) -> None:
    config = configure({"tables.budget": budget}, tuning={"trials": 3, "space": SPACE})
    with pytest.raises(BudgetError, match="the smallest such tables need"):
        smallest_min_count(config, prepared_for(config).path)
    with pytest.raises(NothingFits, match="small: none of its settings fits the budget"):
        candidates(config, prepared_for)


def test_each_width_is_drawn_with_its_own_and_as_often_as_asked(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared]
) -> None:
    config = configure({"tables.budget": "40%"}, tuning={"trials": 4, "space": SPACE})
    drawn = candidates(config, prepared_for)
    assert [c.settings for c in drawn] == [c.settings for c in candidates(config, prepared_for)]
    assert len(drawn) == 4, "the file's own settings do not fit, all others do"
    counts: dict[int, set[int]] = {}
    for candidate in drawn:
        count, width = (candidate.settings[key] for key in ("features.min_count", "tables.embedding_dim"))
        counts.setdefault(width, set()).add(count)
        assert {f.min_count for f in candidate.config.features if f.kind == "categorical"} == {count}
        plan = plan_of(candidate.config, Prepared.open(candidate.prepared).features())
        assert plan.bytes.total <= 0.4 * plan.full_bytes
    assert {width: len(found) for width, found in counts.items()} == {4: 1, 8: 1}
    assert max(counts[4]) < min(counts[8]), "narrower rows leave room for more ids"


def test_beside_numbers_it_is_one_more_value_and_a_twin_of_an_equal_one(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared]
) -> None:
    space = {"features.min_count": ["fit", 1, 3], "training.table_lr": [0.02, 0.1]}
    config = configure({"tables.budget": "100%"}, tuning={"trials": 9, "space": space})
    counts = [c.settings.get("features.min_count") for c in candidates(config, prepared_for)]
    assert sorted(count for count in counts if count is not None) == [1, 1, 3, 3]


def test_a_tuning_shows_the_number_and_tells_optuna_what_it_asked_for(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared], tmp_path: Path
) -> None:
    config = configure({"tables.budget": "40%"}, tuning={"trials": 3, "space": SPACE})
    for how in ("random", "grid", "optuna"):
        for again in (False, True):
            with opened(config, prepared_for, tmp_path / how, how, 3, True) as study:  # type: ignore[arg-type]
                _finish(study)
                assert study.is_done is True, again
                tuned = study.result()
            assert all(trial.settings["features.min_count"] > 1 for trial in tuned.trials)
            assert "fit" not in str(trials_sheet(tuned).rows)
            text = yaml.safe_load(best_yaml(tuned, tmp_path / "a.yaml", tmp_path / "b.yaml"))
            config.replace(text["set"])
            parallel_picture(tuned)


def _finish(study: Study) -> None:
    """Every trial, without training."""
    while (trial := study.next()) is not None:
        study.note(trial, _told(trial))
        study.close(trial, None)


def _told(trial: Trial) -> dict[str, Any]:
    return {"epoch": 2.0, "rows": 2000, "validation_logloss": 0.5 + trial.number, "validation_auc": 0.5}


@pytest.mark.parametrize(
    ("recipe", "scheme"), [("hash", "hash"), ("quotient_remainder", "quotient_remainder")]
)
def test_other_schemes_are_refused_when_the_file_is_read(tmp_path: Path, recipe: str, scheme: str) -> None:
    log = tmp_path / "log.parquet"
    log.touch()
    parent = ROOT / "configs" / "frappe" / f"{recipe}.yaml"
    text = f"extends: {parent}\nname: x\ntuning: {{space: {{features.min_count: [fit, 2]}}}}\n"
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=rf"tuning.space: features.min_count: `fit` is of .* are {scheme}; list"
    ):
        load_experiment(tmp_path / "x.yaml", log)


def test_a_drawn_scheme_is_refused_when_it_is_drawn(
    configure: Configure, prepared_for: Callable[[ExperimentConfig], Prepared]
) -> None:
    tables = [{"scheme": "mixed_dimension", "embedding_dim": 8, "budget": "40%"}]
    config = configure(tuning={"trials": 3, "space": {"tables": tables, "features.min_count": ["fit"]}})
    with pytest.raises(ConfigError, match="these are mixed_dimension"):
        candidates(config, prepared_for)


@pytest.mark.parametrize("key", ["features.max_tokens", "training.table_lr"])
def test_no_other_setting_is_computed(configure: Configure, tmp_path: Path, key: str) -> None:
    config = configure(tuning={"trials": 3, "space": {key: ["fit"]}})
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    with pytest.raises(ConfigError, match="fit"):
        load_experiment(file)


@pytest.mark.skipif(not MOVIELENS.exists(), reason="the data beside the repository are absent")
def test_movielens_at_a_tenth_of_the_bytes_has_more_than_one_setting(tmp_path: Path) -> None:
    """Minimum count 110 at width 4 fits and gave an AUC of 0.7569, where a list had but 200, and 0.7389."""
    config = load_experiment(ROOT / "configs" / "movielens" / "full.yaml", MOVIELENS)
    (arm,) = with_budgets([config], ["10%"])
    drawn = candidates(arm, lambda c: prepare(c.data, c.features, tmp_path))
    assert len(drawn) == arm.tuning.trials == 8
    found = {c.settings["tables.embedding_dim"]: c.settings["features.min_count"] for c in drawn}
    assert set(found) > {4}
    assert found[4] <= 110
    for candidate in drawn:
        plan = plan_of(candidate.config, Prepared.open(candidate.prepared).features())
        assert 0.09 < plan.bytes.total / plan.full_bytes <= 0.1
