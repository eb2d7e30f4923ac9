"""The experiment of a genome on disk: named as the data are, whole or made again, ids of all kinds left behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.compression.compact import write_compact
from recsys.compression.learners import learned_of
from recsys.compression.saliency import with_defaults
from recsys.compression.search import CompressionResult, run_compression
from recsys.compression.supernet import evaluator
from recsys.config import ConfigError, load_experiment, parse_experiment
from recsys.planning import plan_of
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import kept_ids
from recsys_pipelines.preparation.prepare import prepare

WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compact")


@pytest.fixture(scope="module")
def strange(root: Path) -> str:
    """Name a column like a path."""
    return str(root / "outside" / "of the search")


@pytest.fixture(scope="module")
def found(root: Path, strange: str) -> CompressionResult:
    random = np.random.default_rng(0)
    rows = 1200
    item, shop = random.integers(0, 40, rows), random.integers(0, 15, rows)
    texts = [" ".join(random.choice(WORDS, 3)) for _ in range(rows)]
    label = (random.random(rows) < np.where((item + shop) % 3 == 0, 0.7, 0.2)).astype(np.int8)
    pq.write_table(
        pa.table({"label": label, strange: item, "a/b": shop, "text": texts}), root / "log.parquet"
    )
    config = parse_experiment(
        {
            "name": "words",
            "data": {"source": "table", "path": str(root / "log.parquet")},
            "features": [
                {"kind": "categorical", "names": [strange, "a/b"]},
                {"kind": "tokens", "columns": ["text"]},
                {"kind": "prefixes", "columns": ["text"], "lengths": [2, 3]},
                {"kind": "cross", "name": "both", "columns": [strange, "a/b"]},
            ],
            "tables": {"scheme": "full", "embedding_dim": 4},
            "model": {"name": "fnn", "hidden": [4]},
            "training": {"batch_size": 256, "epochs": 1},
            "compression": {
                "learner": {"tables.scheme": "opt_embed"},
                "min_count": 1,
                **{"population": 4, "mutations": 2, "crossovers": 2, "generations": 1},
            },
        },
        "words.yaml",
    )
    ready = prepare(config.data, config.features, root / "prepared")
    return run_compression(config, "40%", ready, (root / "runs", root / "prepared"), evaluator, seeds=0)


def test_columns_called_like_paths_are_searched_and_write_nowhere_else(
    found: CompressionResult, root: Path, strange: str
) -> None:
    assert {path.name for path in root.iterdir()} == {"log.parquet", "prepared", "runs"}
    for file in found.compact.values():
        assert {path.name for path in (file.parent / "ids").iterdir()} == {
            *(f"{n}.npy" for n in range(5)),
            "manifest.json",
        }
        assert kept_ids(file.parent / "ids", strange).dtype == np.int64


def test_ids_of_tokens_prefixes_and_crosses_leave_too(found: CompressionResult, root: Path) -> None:
    assert not found.space.whole
    genome = found.space.fit(found.space.uniform(4, 0.5), found.space.bytes(found.space.everything()))
    learner = found.learner
    learned = with_defaults(learned_of(learner), Rows.load(found.prepared, "train"), 1)
    file = write_compact(found.config, "half", learner, learned, found.space, genome, root / "half")
    compact = load_experiment(file)
    ready = prepare(compact.data, compact.features, root / "prepared")
    assert plan_of(compact, ready.features()).bytes.total == found.space.bytes(genome)
    for feature, rows in zip(ready.features().categorical, genome.rows, strict=True):
        assert feature.num_codes == 2 + rows
    assert train(compact, ready, root / "runs").metrics["bytes"]["total"] == found.space.bytes(genome)


def half_made(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "ids":
            file.unlink()


def without_ids(folder: Path) -> None:
    (folder / "ids" / "2.npy").unlink()


def damaged_ids(folder: Path) -> None:
    np.save(folder / "ids" / "1.npy", np.array([1, 2, 3]))


def damaged_start(folder: Path) -> None:
    file = folder / "start.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize("damage", [half_made, without_ids, damaged_ids, damaged_start])
def test_what_is_found_half_made_is_made_again(
    found: CompressionResult, root: Path, damage: Callable[[Path], None]
) -> None:
    learned = with_defaults(learned_of(found.learner), Rows.load(found.prepared, "train"), 1)

    def write() -> Path:
        place = root / "again"
        return write_compact(found.config, "x", found.learner, learned, found.space, found.best, place)

    folder = write().parent
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    damage(folder)
    assert write().parent == folder
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_an_experiment_that_was_changed_is_neither_used_nor_lost(
    found: CompressionResult, root: Path
) -> None:
    learned = with_defaults(learned_of(found.learner), Rows.load(found.prepared, "train"), 1)
    arguments = (found.config, "y", found.learner, learned, found.space, found.best, root / "changed")
    file = write_compact(*arguments)
    file.write_text(file.read_text() + "# mine\n")
    with pytest.raises(ConfigError, match=r"experiment\.yaml: changed or damaged since it was written"):
        write_compact(*arguments)
    assert file.read_text().endswith("# mine\n")
