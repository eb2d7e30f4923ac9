"""A finished run scores rows as training did: its own test rows, and files it has never seen."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recsys.config import ExperimentConfig
from recsys.serving.scoring import predict_file, score_file, score_split
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.quarantine import Quarantine, TooManyBadRows
from recsys_pipelines.sources import SourceError

Configure = Callable[..., ExperimentConfig]


def as_text(table: pa.Table) -> pa.Table:
    """Return what a CSV can hold: lists joined by '|'."""
    place = table.column_names.index("tags")
    tags = ["|".join(map(str, bag)) for bag in table["tags"].to_pylist()]
    return table.set_column(place, "tags", pa.array(tags))


@pytest.fixture(scope="module")
def csv_run(log: Path, configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run from CSV that bears a tenth of bad rows."""
    folder = tmp_path_factory.mktemp("csv")
    pa.csv.write_csv(as_text(pq.read_table(log)).slice(0, 2000), folder / "log.csv")
    config = configure(
        {
            "data.path": str(folder / "log.csv"),
            "data.quarantine_limit": 0.1,
            "training.epochs": 1,
            "tables.budget": "60%",
        },
        features=[
            {"kind": "numeric", "names": ["x"]},
            {"kind": "categorical", "names": ["user_id", "item_id"], "encoding": "hash"},
            {
                "kind": "categorical",
                "names": ["tags"],
                "multivalued": True,
                "separator": "|",
                "encoding": "hash",
            },
        ],
        tables={"scheme": "unified", "embedding_dim": 8, "chunk_dim": 4, "budget": "10%"},
    )
    return train(config, prepare(config.data, config.features, folder / "p"), folder / "r")


def known(run: Run) -> dict[int, float]:
    table = run.predictions()
    return dict(zip(table["row_id"].to_pylist(), table["prediction"].to_pylist(), strict=True))


def test_a_split_is_scored_as_in_training(run: Run) -> None:
    rows, predictions = score_split(run, "test")
    table = run.predictions()
    assert np.array_equal(rows.row_id, table["row_id"].to_numpy())
    assert np.array_equal(predictions, table["prediction"].to_numpy())


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_an_unlabelled_file_is_scored_as_in_training(
    run: Run, csv_run: Run, tmp_path: Path, kind: str
) -> None:
    trained = run if kind == "parquet" else csv_run
    assert trained.config.data.path is not None
    file, out = tmp_path / f"new.{kind}", tmp_path / "deep" / "scores.parquet"
    if kind == "parquet":
        pq.write_table(pq.read_table(trained.config.data.path).drop_columns(["label", "time"]), file)
    else:
        pa.csv.write_csv(pa.csv.read_csv(trained.config.data.path).drop_columns(["label", "time"]), file)
    counts = predict_file(trained, file, out)
    scores = pq.read_table(out)
    rows = scores.num_rows
    assert counts["rows_in"] == counts["rows_scored"] == rows
    assert counts["quarantined"] == 0
    assert scores["row_id"].to_pylist() == list(range(rows))
    expected = known(trained)
    found = scores["prediction"].to_numpy()
    np.testing.assert_allclose(found[list(expected)], list(expected.values()), rtol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["scores.parquet"]


def test_unknown_categories_and_missing_values_are_scored(run: Run, log: Path, tmp_path: Path) -> None:
    table = pq.read_table(log).slice(0, 4)
    table = table.set_column(1, "user_id", pa.array(["nobody", "no one", None, "u1"]))
    table = table.set_column(2, "item_id", pa.array([10**15, -5, 3, None]))
    table = table.set_column(3, "tags", pa.array([[999], [998], [], None], pa.list_(pa.int64())))
    table = table.set_column(4, "x", pa.array([0.1, 0.1, None, 0.3]))
    pq.write_table(table, tmp_path / "new.parquet")
    assert predict_file(run, tmp_path / "new.parquet", tmp_path / "out.parquet")["rows_scored"] == 4
    scores = pq.read_table(tmp_path / "out.parquet")["prediction"].to_numpy()
    assert ((scores > 0) & (scores < 1)).all()
    assert scores[0] == pytest.approx(scores[1]), "what is not in a vocabulary is one id"


def test_bad_rows_are_quarantined_and_counted(csv_run: Run, tmp_path: Path) -> None:
    assert csv_run.config.data.path is not None
    lines = csv_run.config.data.path.read_text().splitlines()
    x = lines[0].replace('"', "").split(",").index("x")
    for row, value in ((3, "abc"), (9, "inf")):
        cells = lines[row + 1].split(",")
        cells[x] = value
        lines[row + 1] = ",".join(cells)
    file, out = tmp_path / "bad.csv", tmp_path / "out.parquet"
    file.write_text("\n".join(lines[:101]) + "\n")
    counts = predict_file(csv_run, file, out)
    assert counts == {"rows_in": 100, "rows_scored": 98, "quarantined": 2, "unknown_ids": {}}
    scores = pq.read_table(out)
    assert sorted(set(range(100)) - set(scores["row_id"].to_pylist())) == [3, 9]
    listed = pa.csv.read_csv(tmp_path / "out-quarantine" / "quarantine.csv").to_pylist()
    assert [(bad["row"], bad["field"], bad["value"]) for bad in listed] == [(3, "x", "abc"), (9, "x", "inf")]
    expected = {row: score for row, score in known(csv_run).items() if row < 100 and row not in (3, 9)}
    chosen = scores.filter(pc.is_in(scores["row_id"], pa.array(list(expected))))["prediction"].to_numpy()
    np.testing.assert_allclose(chosen, [expected[row] for row in sorted(expected)], rtol=1e-5)
    predict_file(csv_run, csv_run.config.data.path, out)
    assert pa.csv.read_csv(tmp_path / "out-quarantine" / "quarantine.csv").num_rows == 0


def test_too_many_bad_rows_leave_no_predictions(csv_run: Run, tmp_path: Path) -> None:
    assert csv_run.config.data.path is not None
    header = csv_run.config.data.path.read_text().splitlines()[0].replace('"', "").split(",")
    row = ["abc" if name == "x" else "1" for name in header]
    (tmp_path / "bad.csv").write_text(",".join(header) + "\n" + ",".join(row) + "\n")
    with pytest.raises(TooManyBadRows, match=r"1 of 1 rows .* x: not a number .*bad\.csv, line 2: abc"):
        predict_file(csv_run, tmp_path / "bad.csv", tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "out-quarantine"]


def test_files_that_cannot_be_scored(run: Run, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    pq.write_table(pq.read_table(log).drop_columns(["item_id"]), tmp_path / "lacks.parquet")
    with pytest.raises(SourceError, match=r"lacks\.parquet: there is no column 'item_id' \(did you mean"):
        predict_file(run, tmp_path / "lacks.parquet", out)
    with pytest.raises(SourceError, match=r"nothing\.parquet: there is no such file"):
        predict_file(run, tmp_path / "nothing.parquet", out)
    (tmp_path / "cut.parquet").write_bytes(log.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"cut\.parquet: this is not a complete Parquet file"):
        predict_file(run, tmp_path / "cut.parquet", out)
    assert not out.exists()


def test_a_labelled_file_keeps_labels_and_users(run: Run, log: Path) -> None:
    quarantine = Quarantine(0.0)
    parts = list(score_file(run, log, labelled=True, quarantine=quarantine))
    labels = np.concatenate([rows.label for rows, _ in parts])
    assert labels.tolist() == pq.read_table(log)["label"].to_pylist()
    assert all(rows.user is not None for rows, _ in parts)
    scores = np.concatenate([scores for _, scores in parts])
    expected = known(run)
    np.testing.assert_allclose(scores[list(expected)], list(expected.values()), rtol=1e-5)


def test_predicting_needs_no_user_or_time_that_is_no_feature(
    configure: Configure, log: Path, tmp_path: Path
) -> None:
    config: Any = configure(
        {"data.time": "time", "training.epochs": 1},
        features=[{"kind": "categorical", "names": ["item_id"]}],
        model={"name": "lr"},
    )
    found = train(config, prepare(config.data, config.features, tmp_path / "p"), tmp_path / "r")
    pq.write_table(pq.read_table(log, columns=["item_id"]), tmp_path / "items.parquet")
    assert predict_file(found, tmp_path / "items.parquet", tmp_path / "o.parquet")["rows_scored"] == 6000


def test_a_run_whose_prepared_data_is_gone_says_so(
    configure: Configure, prepared: Prepared, tmp_path: Path
) -> None:
    copy = Prepared.open(Path(shutil.copytree(prepared.path, tmp_path / prepared.path.name)))
    found = train(configure({"training.epochs": 1}), copy, tmp_path / "r")
    shutil.rmtree(copy.path)
    with pytest.raises(ValueError, match=r"no manifest\.json, so this is not a finished prepared folder"):
        score_split(found, "test")


def test_text_in_place_of_integers_is_refused_and_not_scored_with_other_ids(
    run: Run, log: Path, tmp_path: Path
) -> None:
    table = pq.read_table(log)
    place = table.column_names.index("item_id")
    text = table.set_column(place, "item_id", table["item_id"].cast(pa.string()))
    pq.write_table(text, tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="column 'item_id' holds text, but integers in training"):
        predict_file(run, tmp_path / "text.parquet", tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


def test_ids_outside_the_vocabulary_are_scored_and_counted(run: Run, log: Path, tmp_path: Path) -> None:
    table = pq.read_table(log).slice(0, 100)
    place = table.column_names.index("item_id")
    pq.write_table(
        table.set_column(place, "item_id", pa.array([2**60 + i for i in range(100)])),
        tmp_path / "new.parquet",
    )
    counts = predict_file(run, tmp_path / "new.parquet", tmp_path / "out.parquet")
    assert counts["unknown_ids"]["item_id"] == counts["rows_scored"] == 100
    scores = pq.read_table(tmp_path / "out.parquet")["prediction"].to_numpy()
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("config.yaml", "a: [1"),
        ("features/arrays.npz", "x"),
        ("features/features.json", "{"),
    ],
)
def test_a_damaged_run_is_named(run: Run, log: Path, tmp_path: Path, name: str, content: str) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match=r"damaged.*train again"):
        predict_file(Run.open(tmp_path / "run"), log, tmp_path / "out.parquet")
