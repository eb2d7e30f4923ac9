"""Vocabularies of fingerprints in trainings, checkpoints, artefacts, predictions, budgets and slices."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.comparison.slices_of_runs import run_slicings
from recsys.compression.compact import space_of
from recsys.compression.space import Learned
from recsys.config import ConfigError, ExperimentConfig, load_experiment
from recsys.planning import plan_of
from recsys.reports.data import inspection_sheets
from recsys.serving.export import ArtefactScorer, check, export
from recsys.serving.scoring import predict_file
from recsys.training.run import Run
from recsys.training.teacher import default_teacher
from recsys.training.train import train
from recsys.tuning.min_count import smallest_min_count
from recsys.tuning.trials import candidates
from recsys_cython_ext.vocabulary import table_bytes
from recsys_pipelines.encoding.vocabulary import vocabulary_bytes
from recsys_pipelines.inspection.inspect import inspect
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.shards import read_arrays
from recsys_tables.planning.plan import BudgetError

Configure = Callable[..., ExperimentConfig]
FINGERPRINT = {"features.vocabulary": {"form": "fingerprint"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fingerprint")


def ready(config: ExperimentConfig, root: Path) -> Prepared:
    return prepare(config.data, config.features, root / "prepared")


@pytest.fixture(scope="module")
def small(configure: Configure, root: Path) -> Run:
    """The session's run, but for the form of its vocabularies."""
    config = configure(FINGERPRINT)
    return train(config, ready(config, root), root / "runs")


def test_where_every_id_is_known_a_run_is_that_of_exact_vocabularies(run: Run, small: Run) -> None:
    assert small.predictions().equals(run.predictions())
    assert small.metrics["test"] == run.metrics["test"]
    bytes_, exact = small.metrics["bytes"], run.metrics["bytes"]
    assert bytes_["vocabulary"] == sum(f.vocabulary_bytes for f in small.features().categorical)
    assert bytes_["vocabulary"] < exact["vocabulary"] / 2
    assert bytes_["full_table"] == exact["full_table"], "100 % is the full table with exact vocabularies"
    assert not any(name.endswith("ids") for name in read_arrays(small.path / "features" / "arrays.npz"))


def test_its_artefact_scores_like_it_and_counts_the_same_bytes(small: Run, root: Path) -> None:
    made = export(small, root / "artefact", "fp32")
    assert made.bytes.vocabulary == small.metrics["bytes"]["vocabulary"]
    assert check(small, root / "artefact") == pytest.approx(small.metrics["test"], rel=1e-5)
    rows = small.rows("test")
    expected = small.predictions()["prediction"].to_numpy()
    np.testing.assert_allclose(ArtefactScorer(root / "artefact").score(rows), expected, atol=1e-6)


def test_new_ids_are_predicted_as_unknown_ones_and_their_count_is_an_estimate(
    small: Run, log: Path, root: Path
) -> None:
    table = pq.read_table(log).slice(0, 1000)
    new = table.set_column(table.column_names.index("item_id"), "item_id", pa.array(np.arange(1000) + 10**6))
    pq.write_table(new, root / "new.parquet")
    counts = predict_file(small, root / "new.parquet", root / "scores.parquet")
    assert counts["rows_scored"] == 1000
    assert 980 < counts["unknown_ids"]["item_id"] < 1000, "some pass for known ones"
    said = CliRunner().invoke(
        cli.app, ["predict", str(small.path), str(log), "--out", str(root / "p.parquet")]
    )
    assert "(an estimate: with form: fingerprint 1 in 256 passes for one inside)" in " ".join(
        said.output.split()
    )


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        (
            {"features.unknown": "hash", "features.min_count": 100},
            {"scheme": "frequency_split", "budget": "60%"},
        ),
        ({"features.min_count": 100}, {"scheme": "quotient_remainder", "budget": "60%"}),
    ],
    ids=lambda value: value.get("scheme"),
)
def test_other_schemes_too(
    configure: Configure, tmp_path: Path, root: Path, settings: dict[str, Any], tables: dict[str, Any]
) -> None:
    config = configure(FINGERPRINT | settings | {"training.epochs": 1}, tables={"embedding_dim": 8} | tables)
    trained = train(config, ready(config, root), tmp_path / "runs")
    export(trained, tmp_path / "out", "fp32")
    scores = ArtefactScorer(tmp_path / "out").score(trained.rows("test"))
    np.testing.assert_allclose(scores, trained.predictions()["prediction"].to_numpy(), atol=1e-5)
    assert trained.metrics["test"]["auc"] > 0.6


# Settings


def test_it_is_set_as_other_keys_of_features_are(configure: Configure, log: Path, tmp_path: Path) -> None:
    by_name = configure({"features.form": "fingerprint"})
    assert by_name == configure(FINGERPRINT)
    assert [getattr(feature, "form", None) for feature in by_name.features] == [None, *["fingerprint"] * 2]
    assert by_name.digest("p") != configure().digest("p") == configure({"features.form": "exact"}).digest("p")
    raw = configure().model_dump(mode="json", exclude_unset=True)
    raw["tuning"] = {"space": {"features.vocabulary": [{"form": "fingerprint"}, {"encoding": "hash"}]}}
    (tmp_path / "x.yaml").write_text(json.dumps(raw))
    load_experiment(tmp_path / "x.yaml")
    raw["features"][1]["encoding"] = "hash"
    raw["tuning"] = {"space": {"features.form": ["fingerprint"]}}
    (tmp_path / "x.yaml").write_text(json.dumps(raw))
    with pytest.raises(
        ConfigError, match=r"tuning.space.features.form: features.1: `form: fingerprint` needs a voc"
    ):
        load_experiment(tmp_path / "x.yaml")


def test_the_default_teacher_has_exact_vocabularies(configure: Configure) -> None:
    student = configure(FINGERPRINT | {"training.teacher": {"runs": 2}})
    assert default_teacher(student).digest("p") == default_teacher(configure()).digest("p")


def test_a_search_for_small_tables_needs_ids(configure: Configure, small: Run) -> None:
    with pytest.raises(
        ConfigError, match="small: feature 'user_id': `form: fingerprint` keeps no ids, and a search"
    ):
        space_of(small.config, small.features(), Learned({}, {}, {}))


def test_a_run_goes_on_from_it_on_its_own_set_only(
    configure: Configure, small: Run, log: Path, root: Path
) -> None:
    settings = FINGERPRINT | {"training.start": {"run": str(small.path)}, "training.epochs": 1}
    config = configure(settings)
    later = train(config, ready(config, root), root / "runs")
    assert later.metrics["test"]["auc"] > 0.6
    pq.write_table(pq.read_table(log).slice(2000), root / "half.parquet")
    exact = {"features.form": "exact"}
    for changes in ({"features.min_count": 200}, {"data.path": str(root / "half.parquet")} | exact, exact):
        config = configure(settings).replace(changes)
        words = "feature 'user_id' was fitted otherwise.*no vocabulary of `form: fingerprint` grows"
        with pytest.raises(ValueError, match=words if "data.path" not in changes else "was fitted otherwise"):
            train(config, ready(config, root), root / "runs")


# Budgets


@pytest.mark.parametrize(
    ("width", "budget", "sections"),
    [
        (4, "18%", {}),
        (8, "25%", {}),
        (4, "2000B", {}),
        (4, "1%", {}),
        (
            4,
            "18%",
            {
                "features": [
                    {"kind": "categorical", "names": ["user_id", "item_id"]},
                    {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"},
                ],
                "data": {"user": "user_id", "time": "time", "split": {"by": "time"}},
            },
        ),
    ],
)
@pytest.mark.parametrize("form", ["exact", "fingerprint"])  # of the set that is counted in
def test_the_smallest_minimum_count_is_of_the_bytes_that_are_built(
    configure: Configure, log: Path, root: Path, width: int, budget: str, sections: dict[str, Any], form: str
) -> None:
    if sections:
        sections = sections | {"data": {"source": "table", "path": str(log), **sections["data"]}}
    config = configure({"tables.embedding_dim": width, "tables.budget": budget}, **sections)
    counted = ready(config.replace({"features.form": form}), root)
    config = config.replace(FINGERPRINT)
    if budget == "1%":
        with pytest.raises(BudgetError, match="the smallest such tables need"):
            smallest_min_count(config, counted.path)
        return
    smallest = smallest_min_count(config, counted.path)
    assert 1 < smallest <= smallest_min_count(config.replace({"features.form": "exact"}), counted.path)
    for min_count in (smallest, smallest - 1):
        tried = config.replace({"features.min_count": min_count})
        features = ready(tried, root).features()
        if min_count == smallest:
            plan_of(tried, features)
        else:
            with pytest.raises(BudgetError):
                plan_of(tried, features)


def test_what_a_vocabulary_takes_beyond_the_least_is_counted(configure: Configure, root: Path) -> None:
    config = configure(FINGERPRINT | {"tables.embedding_dim": 4})
    counted = ready(config, root)
    beyond = 0
    for min_count in (60, 88, 92, 96, 100, 120):
        tried = config.replace({"features.min_count": min_count})
        features = ready(tried, root).features()
        least = sum(vocabulary_bytes(len(f.vocabulary), f.form) for f in features.categorical)  # type: ignore[union-attr]
        total = plan_of(tried, features).bytes.total
        beyond += sum(feature.vocabulary_bytes for feature in features.categorical) > least
        for budget in (total, total - 1):
            budgeted = config.replace({"tables.budget": f"{budget}B"})
            smallest = smallest_min_count(budgeted, counted.path)
            assert smallest <= min_count if budget == total else smallest > min_count
            fitting = budgeted.replace({"features.min_count": smallest})
            assert plan_of(fitting, ready(fitting, root).features()).bytes.total <= budget
    assert beyond > 2, "of so few ids the first seed often does not work"


def test_a_tuning_draws_either_form_with_the_ids_that_fit_it(configure: Configure, root: Path) -> None:
    space = {"features.min_count": ["fit"], "features.form": ["exact", "fingerprint"]}
    config = configure(
        {"tables.budget": "18%", "tables.embedding_dim": 4}, tuning={"trials": 2, "space": space}
    )
    drawn = {c.settings["features.form"]: c for c in candidates(config, lambda c: ready(c, root))}
    assert drawn.keys() == {"exact", "fingerprint"}
    exact, small = (drawn[form].settings["features.min_count"] for form in ("exact", "fingerprint"))
    assert small < exact, "smaller vocabularies leave room for more ids"
    for candidate in drawn.values():
        features = Prepared.open(candidate.prepared).features()
        plan = plan_of(candidate.config, features)
        assert plan.full_bytes == sum(
            f.full_codes * 68 + table_bytes(f.full_codes - 2) for f in features.categorical
        )


# What is said


def test_inspection_says_what_it_estimates(small: Run, run: Run) -> None:
    found = inspect(small.prepared())
    words = "Estimates for user_id, item_id, tags: with form: fingerprint 1 in 256 (0.39%) of the ids outside"
    assert [words in (sheet.note or "") for sheet in inspection_sheets(found)] == [False, True, True, False]
    assert "vocabulary, fingerprint" in {row[1] for row in inspection_sheets(found)[1].rows}
    assert not any("Estimates" in (sheet.note or "") for sheet in inspection_sheets(inspect(run.prepared())))


def test_slices_count_like_those_of_exact_vocabularies_and_say_that_they_estimate(
    run: Run, small: Run
) -> None:
    row_ids = run.predictions()["row_id"].combine_chunks()
    names = ["item_id", "new:item_id", "frequency:item_id", "user_id"]
    exact, estimated = (run_slicings([arm], names, row_ids) for arm in (run, small))
    for name, a, b in zip(names, exact, estimated, strict=True):
        assert a.names == b.names
        assert a.codes.tolist() == b.codes.tolist()
        assert ("One id in 256" in b.note) == (":" in name)
    (both,) = run_slicings([small, run], ["new:item_id"], row_ids)
    assert "One id" not in both.note, "the arm that knows is asked"
