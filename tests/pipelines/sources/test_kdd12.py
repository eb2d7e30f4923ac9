from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from recsys_pipelines.config import CategoricalConfig, DataConfig, StatisticConfig
from recsys_pipelines.inspection.inspect import inspect
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.shards import read_shard
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.kdd12 import COUNTS, FEATURES, Kdd12

REST = "4298118681424644510\t7686695\t385\t3\t3\t1601\t5521\t7709\t576\t{user}"


def write(path, *counts, user="490234"):
    lines = (f"{clicks}\t{impressions}\t" + REST.format(user=user) for clicks, impressions in counts)
    path.write_text("\n".join(lines) + "\n")
    return path


def read(source, columns):
    bad = Quarantine()
    chunks = list(source.chunks(columns, bad))
    return pa.concat_tables(c.table for c in chunks), chunks, bad


def test_a_line_is_its_clicks_and_the_rest(tmp_path):
    path = write(tmp_path / "training.txt", (0, 3), (2, 5), (4, 4), ("0", "1"))
    source = open_source(DataConfig(source="kdd12", path=path))
    assert source.columns == (*COUNTS, *FEATURES, "clicked", "weight")
    table, (chunk,), bad = read(source, ["clicked", "weight", "click", "ad_id"])
    assert table["clicked"].to_pylist() == [0, 0, 1, 1, 0]
    assert table["weight"].to_pylist() == [3, 3, 2, 4, 1]
    assert table["click"].to_pylist() == ["0", "2", "2", "4", "0"]
    assert table["ad_id"].to_pylist() == ["7686695"] * 5
    assert chunk.rows.tolist() == [0, 2, 3, 5, 6]
    assert chunk.lines.tolist() == [1, 2, 2, 3, 4]
    assert chunk.added == 1
    assert bad.count == 0


def test_weights_are_the_likelihood_of_the_showings(tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (50, 2))
    counts = np.sort(counts[counts.max(axis=1) > 0], axis=1)
    table, _, _ = read(Kdd12(write(tmp_path / "t.txt", *counts)), ["clicked", "weight"])
    clicked, weight = table["clicked"].to_numpy(), table["weight"].to_numpy()
    assert weight.min() > 0
    assert (clicked * weight).sum() == counts[:, 0].sum()
    assert weight.sum() == counts[:, 1].sum()


def test_user_zero_is_nobody(tmp_path):
    table, _, _ = read(Kdd12(write(tmp_path / "t.txt", (0, 1), user="0")), ["user_id", "weight"])
    assert table["user_id"].to_pylist() == [None]


def test_counts_that_cannot_be(tmp_path):
    counts = [(0, 1), (2, 1), ("", 1), (1, "x"), (0, 0), (-1, 2), (1, 2.5), (0, 10**18), (1, 1)]
    table, (chunk,), bad = read(Kdd12(write(tmp_path / "t.txt", *counts)), ["weight"])
    assert table["weight"].to_pylist() == [1, 1]
    assert chunk.added == 0
    assert chunk.lines.tolist() == [1, 9]
    assert sorted((e.line, e.field, e.reason) for e in bad.examples) == [
        (2, "click", "more clicks than impressions"),
        (3, "click", "not a count"),
        (4, "impression", "not a count"),
        (5, "impression", "no impression"),
        (6, "click", "not a count"),
        (7, "impression", "not a count"),
        (8, "impression", "not a count"),
    ]


def test_unlabelled_lines_are_rows(tmp_path):
    (tmp_path / "test.txt").write_text((REST.format(user=5) + "\n") * 2)
    for path in (tmp_path / "test.txt", write(tmp_path / "training.txt", (1, 2), (1, 2))):
        source = Kdd12(path, labelled=False)
        assert source.columns == FEATURES
        table, (chunk,), bad = read(source, ["ad_id"])
        assert table["ad_id"].to_pylist() == ["7686695"] * 2
        assert chunk.rows.tolist() == [0, 1]
        assert bad.count == 0
    table, _, bad = read(Kdd12(tmp_path / "test.txt"), ["ad_id", "clicked"])
    assert table.num_rows == 0
    assert {e.reason for e in bad.examples} == {"10 columns instead of 12"}


def test_prepared_with_the_rows_that_were_added(tmp_path):
    counts = [(k % 3, 2 + k % 2) for k in range(40)] + [(3, 2), ("x", 1)]
    path = write(tmp_path / "training.txt", *counts)
    data = DataConfig(
        source="kdd12", path=path, label={"column": "clicked"}, weight="weight", quarantine_limit=0.1
    )
    prepared = prepare(data, [CategoricalConfig(kind="categorical", names=("ad_id",))], tmp_path / "out")
    manifest = prepared.manifest
    assert manifest.rows_in == len(counts)
    assert manifest.quarantined == 2
    both = sum(0 < c < n for c, n in counts[:40])
    assert manifest.rows_added == both > 0
    assert manifest.rows_in + both == manifest.rows_out + 2


def test_the_two_rows_of_a_line_stay_together_and_rates_are_by_weight(tmp_path):
    path = write(tmp_path / "training.txt", *[(1, 100)] * 300)
    data = DataConfig(
        source="kdd12", path=path, label={"column": "clicked"}, weight="weight", split={"by": "random"}
    )
    features = [
        CategoricalConfig(kind="categorical", names=("ad_id",)),
        StatisticConfig(kind="statistic", columns=("ad_id",)),
    ]
    prepared = prepare(data, features, tmp_path / "out")
    found = inspect(prepared)
    for split in SPLITS:
        files = (prepared.path / split).glob("*.arrow")
        rows = [row for file in files for row in read_shard(file).to_pylist()]
        lines = Counter(row["@line"] for row in rows)
        assert set(lines.values()) == {2}
        assert [row["ad_id:ctr"] for row in rows] == pytest.approx([0.01] * len(rows))
        assert found.splits[split].weighted_rate == pytest.approx(0.01)
        assert found.splits[split].label.rate == 0.5


def test_errors(tmp_path):
    with pytest.raises(SourceError, match=r"'document'.*it has click, impression"):
        Kdd12(write(tmp_path / "t.txt", (0, 1))).chunks(["document"], Quarantine())
