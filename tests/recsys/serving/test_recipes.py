"""What a recipe of `configs/` trains answers from an exported folder as it does itself, on a log made for its features."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import logit

from recsys.config import ExperimentConfig, load_experiment
from recsys.serving.export import export
from recsys.serving.predictor import Predictor
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.features import sequences_of, specs_of
from recsys_pipelines.features.convert import ColumnSpec, Spec
from recsys_pipelines.features.derive import DatePart, Weights
from recsys_pipelines.preparation.prepare import prepare
from recsys_tables.planning.plan import BudgetError
from recsys_tables.serving.artefact import ArtefactError

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*.yaml"))
ROWS = 1200
SMALL = {"training.batch_size": 256, "training.epochs": 1, "training.evaluations_per_epoch": 1}
BUDGET = "0.3MB"  # where a share of so small a log has no room for the smallest tables of a scheme


def log_of(config: ExperimentConfig) -> pa.Table:
    """Return rows of the columns that a recipe reads, with missing values, and ids that come late."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for spec in specs_of(config.features).values():
        for column in spec.columns:
            columns[column] = values_of(spec, column, columns, random)
    data, label = config.data, config.data.label
    times = pa.array(1_500_000_000 + np.arange(ROWS) * 997)
    columns |= {name: times for name in [data.time_column] if name}
    columns |= {name: times for name, values in columns.items() if values is None}
    columns |= {
        name: pa.array([f"u{k}" for k in random.integers(0, 60, ROWS)]) for name in [data.user] if name
    }
    columns |= {name: pa.array(random.uniform(0.5, 2, ROWS)) for name in [data.weight] if name}
    clicks = random.integers(0, 2, ROWS)
    columns[label.column] = pa.array(clicks * (1 if label.threshold is None else label.threshold))
    return pa.table(columns)


def values_of(spec: Spec, column: str, columns: dict[str, Any], random: np.random.Generator) -> Any:
    """Return the values of a column; None stands for times."""
    known = columns.get(column)
    if isinstance(spec, DatePart) or (column in columns and known is None):
        return None
    missing = random.random(ROWS) < 0.05
    if isinstance(spec, ColumnSpec) and spec.kind in ("number", "squared_log"):
        return pa.array(random.exponential(20, ROWS), mask=missing)
    if known is not None:
        return known
    ids = np.minimum(random.zipf(1.3, ROWS), 200) + (np.arange(ROWS) > 0.95 * ROWS) * random.integers(
        0, 2, ROWS
    )
    if isinstance(spec, Weights) or (isinstance(spec, ColumnSpec) and spec.kind == "ids"):
        lists = [[f"v{k % 7 + j}" for j in range(k % 4)] for k in ids.tolist()]
        separator = getattr(spec, "separator", None)
        return pa.array(lists if separator is None else [separator.join(of_row) for of_row in lists])
    return pa.array([f"v{k}" for k in ids.tolist()], mask=missing)


def rows_of(
    config: ExperimentConfig, table: pa.Table, row_id: list[int], columns: list[str]
) -> list[dict[str, Any]]:
    """Return the rows as requests bring them: with the events that each user had before, oldest first."""
    rows = table.to_pylist()
    seen: dict[tuple[str, Any], list[Any]] = defaultdict(list)
    for row in rows:  # in the order of time
        for sequence in sequences_of(config.features):
            events = seen[sequence.name, row[config.data.user]]
            row[sequence.name] = events[-sequence.length :]
            positive = row[config.data.label.column] >= (config.data.label.threshold or 1)
            if row[sequence.column] is not None and (positive or not sequence.only_positive):
                events.append(row[sequence.column])
    return [{name: rows[k][name] for name in columns} for k in row_id]


def trained(recipe: str, folder: Path) -> tuple[Run, pa.Table]:
    """Return a short run of a recipe on a log of its own, and the log."""
    made = recipe.startswith("generated/")  # which has no `data.path`
    config = load_experiment(CONFIGS / recipe, data=None if made else folder)
    table = log_of(config)
    pq.write_table(table, folder / "log.parquet")
    data = {"source": "table", "path": str(folder / "log.parquet"), "generator": None, "truth": None}
    config = config.replace({f"data.{name}": value for name, value in data.items()} | SMALL)
    prepared = prepare(config.data, config.features, folder / "prepared")
    try:
        return train(config, prepared, folder / "runs"), table
    except BudgetError:
        return train(config.replace({"tables.budget": BUDGET}), prepared, folder / "runs"), table


def refused(run: Run, out: Path) -> str | None:
    """Export a run; return why it cannot be, where it needs torch to be served."""
    try:
        export(run, out, "fp32")
    except ArtefactError as error:
        if "served with torch only" not in str(error):
            raise
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_answers_as_its_run(recipe: str, tmp_path: Path) -> None:
    run, table = trained(recipe, tmp_path)
    if (reason := refused(run, tmp_path / "out")) is not None:
        pytest.skip(reason)
    predictor = Predictor.open(tmp_path / "out")
    known = run.predictions()
    expected = known["prediction"].to_numpy()
    rows = rows_of(run.config, table, known["row_id"].to_pylist(), predictor.transform.columns)
    found = predictor.predict(rows)
    differences = np.abs(found - expected).max(), np.abs(logit(found) - logit(expected)).max()
    print(f"parity {recipe}: {differences[0]:.1e} {differences[1]:.1e}")
    assert differences[0] <= 2e-6
    assert differences[1] <= 1e-5
    np.testing.assert_allclose(predictor.predict(pa.Table.from_pylist(rows)), found, atol=1e-7)
