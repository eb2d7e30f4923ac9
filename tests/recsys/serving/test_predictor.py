"""An exported model answers as its run does, without torch, and refuses what its features cannot read."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.serving.export import export
from recsys.serving.predictor import PROGRAM, Predictor
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.request.transform import BadRequest
from recsys_tables.serving.artefact import ArtefactError

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def predictor(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.open(export(run, tmp_path_factory.mktemp("exported") / "fp32", "fp32").folder)


def rows_of(run: Run, predictor: Predictor, log: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The test rows as dicts, and what the run predicts of them."""
    table, predicted = pq.read_table(log), run.predictions()
    rows = table.take(predicted["row_id"]).select(predictor.transform.columns).to_pylist()
    return rows, predicted["prediction"].to_numpy()


def test_it_answers_as_its_run(run: Run, predictor: Predictor, log: Path) -> None:
    rows, expected = rows_of(run, predictor, log)
    np.testing.assert_allclose(predictor.predict(rows), expected, atol=2e-6)
    np.testing.assert_allclose(predictor.predict(rows[3]), expected[3:4], atol=2e-6)
    assert predictor.predict([]).shape == (0,)
    with ThreadPoolExecutor(4) as pool:
        for start, part in enumerate(pool.map(predictor.predict, [rows[k : k + 20] for k in range(40)])):
            np.testing.assert_allclose(part, expected[start : start + 20], atol=2e-6)


def test_frames_are_answered_as_dicts(
    run: Run, predictor: Predictor, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, expected = rows_of(run, predictor, log)
    table = pa.Table.from_pylist(rows)
    monkeypatch.setattr("recsys.serving.predictor.ROWS_AT_ONCE", 100)
    for frame in (table, table.combine_chunks().to_batches()[0], pl.from_arrow(table)):
        np.testing.assert_allclose(predictor.predict(frame), expected, atol=2e-6)
        encoded = predictor.encode(frame)
        assert encoded.missing == predictor.encode(rows).missing != {}
        np.testing.assert_allclose(predictor.score(encoded), expected, atol=2e-6)
    assert predictor.predict(table.slice(0, 0)).shape == (0,)


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        ({"training.precision": "bf16", "training.negative_rate": 0.5}, {"scheme": "full"}),
        ({"model": {"name": "fm"}}, {"scheme": "unified", "chunk_dim": 4, "budget": "60%"}),
        ({"model": {"name": "lr"}}, {"scheme": "quotient_remainder", "budget": "60%"}),
        ({"model": {"name": "dlrm"}}, {"scheme": "mixed_dimension", "budget": "60%"}),
        ({"model": {"name": "fnn"}}, {"scheme": "path_based", "budget": "200%"}),
    ],
    ids=["bf16_negatives", "unified", "quotient_remainder", "mixed_dimension", "path_based"],
)
def test_other_runs_too(
    configure: Any, prepared: Prepared, log: Path, tmp_path: Path, settings: Any, tables: Any
) -> None:
    config = configure(settings | {"training.epochs": 1}, tables={"embedding_dim": 8} | tables)
    run = train(config, prepared, tmp_path / "runs")
    predictor = Predictor.open(export(run, tmp_path / "out", "fp32").folder)
    rows, expected = rows_of(run, predictor, log)
    atol = 5e-3 if "training.precision" in settings else 2e-6  # trained in bfloat16, served in float32
    np.testing.assert_allclose(predictor.predict(rows), expected, atol=atol)


def test_ranking_is_predicting_one_context_with_each_item(run: Run, predictor: Predictor, log: Path) -> None:
    rows, _ = rows_of(run, predictor, log)
    context = {name: value for name, value in rows[0].items() if name in ("user_id", "x")}
    items = [{name: value for name, value in row.items() if name not in context} for row in rows[:30]]
    together = predictor.predict([context | item for item in items])
    np.testing.assert_allclose(predictor.rank(context, items), together, atol=1e-7)
    assert predictor.rank(context, []).shape == (0,)


def test_vectors_are_the_rows_of_the_table(run: Run, predictor: Predictor) -> None:
    feature = next(f for f in run.features().categorical if f.name == "item_id")
    ids = feature.ids[:3]
    table = run.checkpoint().read("table/item_id/full").numpy()
    np.testing.assert_array_equal(predictor.vectors("item_id", ids.tolist()), table[feature.encode_ids(ids)])
    with pytest.raises(ValueError, match="'x' is no feature of one id of one column"):
        predictor.vectors("x", [1])


def test_bad_rows_are_named(predictor: Predictor) -> None:
    with pytest.raises(BadRequest, match="row 1, item_id: text, and training had integers"):
        predictor.predict([{"item_id": 1}, {"item_id": "one"}])
    with pytest.raises(BadRequest, match="row 0, itme: no feature reads this column"):
        predictor.predict({"itme": 1})
    with pytest.raises(BadRequest, match="row 0, itme: no feature reads this column"):
        predictor.predict(pa.table({"itme": pa.array([], pa.int64())}))
    with pytest.raises(BadRequest, match="row 1, row: int is no dict"):
        predictor.predict([{}, 1])
    for rows in ("item_id", {1, 2}, (row for row in [{}]), pl.LazyFrame({"item_id": [1]}), np.zeros(3)):
        with pytest.raises(
            TypeError, match="rows are a dict, a list of dicts, a pyarrow Table or RecordBatch"
        ):
            predictor.predict(rows)


def test_a_bad_row_is_numbered_among_all(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.serving.predictor.ROWS_AT_ONCE", 4)
    for rows in ([{}] * 9 + [{"x": "a"}], pa.table({"x": ["1"] * 9 + ["a"]})):
        with pytest.raises(BadRequest, match="row 9, x: not a number"):
            predictor.predict(rows)


def test_damage_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    shutil.copytree(predictor.artefact.folder, tmp_path / "damaged")
    (tmp_path / "damaged" / PROGRAM).write_bytes(b"no network")
    with pytest.raises(ArtefactError, match=r"network\.onnx: damaged"):
        Predictor.open(tmp_path / "damaged")


def test_neither_torch_nor_arrow_is_imported(predictor: Predictor) -> None:
    code = (
        "import sys\n"
        "from recsys.serving.predictor import Predictor\n"
        f"print(Predictor.open({str(predictor.artefact.folder)!r}).predict({{'item_id': 1}}).shape)\n"
        "print([n for n in ('torch', 'torchrec', 'ray', 'pyarrow', 'polars', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1,)", "[]"]
