"""Whatever takes a path of a user takes a string, a Path and any other path-like object."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_pipelines.batches.loader import Loader, Rows
from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.features import Features, kept_ids, write_kept_ids
from recsys_pipelines.inspection.drift import compare_sets
from recsys_pipelines.inspection.inspect import inspect
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SOURCES, SourceError
from recsys_pipelines.sources.generated import generate
from recsys_pipelines.sources.generator_config import GeneratorConfig
from recsys_pipelines.sources.location import located
from recsys_pipelines.sources.table import Table, open_file
from recsys_pipelines.sources.whole import WholeFile


class PathLike:
    def __init__(self, path):
        self._path = str(path)

    def __fspath__(self):
        return self._path


FORMS = [str, Path, PathLike]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(pa.table({"label": [0, 1] * 100, "c": list(range(200))}), path)
    return path


FEATURES = [CategoricalConfig(kind="categorical", names=("c",))]


@pytest.fixture(scope="module")
def ready(log, tmp_path_factory):
    return prepare(DataConfig(source="table", path=log), FEATURES, tmp_path_factory.mktemp("sets"))


READERS = {
    "Prepared.open": lambda path: Prepared.open(path).manifest.rows_out,
    "Rows.load": lambda path: len(Rows.load(path, "test")),
    "Loader": lambda path: Loader(Rows.load(path, "train"), 64, seed=0).num_batches,
    "inspect": lambda path: inspect(path).to_dict(),
    "compare_sets": lambda path: compare_sets(path, path).to_dict(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_readers_of_prepared_sets(ready, read, form):
    assert read(form(ready.path)) == read(ready.path)


@pytest.mark.parametrize("form", FORMS)
def test_features(ready, tmp_path, form):
    features = Features.load(form(ready.path / "features"))
    assert [feature.to_dict() for feature in features.features] == [
        feature.to_dict() for feature in ready.features().features
    ]
    features.out_of_fold(form(ready.path / "features" / "counts.npz"))
    features.save(form(tmp_path / "again"))
    assert Features.load(tmp_path / "again").numeric_columns == features.numeric_columns


@pytest.mark.parametrize("form", FORMS)
def test_preparation(log, ready, tmp_path, form):
    data = DataConfig(source="table", path=form(log))
    assert prepare(data, FEATURES, form(tmp_path / "new")).path == tmp_path / "new" / ready.path.name


@pytest.mark.parametrize("form", FORMS)
def test_files(log, tmp_path, form):
    assert Table(form(log)).columns == tuple(open_file(form(log)).schema.names) == ("label", "c")
    assert WholeFile(form(log)).read().num_rows == 200
    config = GeneratorConfig(rows=10, history=0, fields=[{"name": "user_id", "num_ids": 5}])
    generate(config, form(tmp_path / "made.parquet"))
    assert pq.read_table(tmp_path / "made.parquet").num_rows == 10
    write_kept_ids({"c": np.arange(3)}, form(tmp_path / "ids"))
    assert kept_ids(form(tmp_path / "ids"), "c").tolist() == [0, 1, 2]
    assert Quarantine().write(form(tmp_path)).is_file()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", SOURCES)
def test_sources(tmp_path, source, form):
    with pytest.raises(SourceError, match="no such"):
        SOURCES[source](form(tmp_path / "nothing"))
    assert located(form(tmp_path)) == tmp_path
