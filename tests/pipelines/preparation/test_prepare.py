import csv
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter

from recsys_cython_ext import HASH_VERSION, MISSING_ID, string_ids
from recsys_pipelines.config import CategoricalConfig, DataConfig, FeatureConfig
from recsys_pipelines.features import Features
from recsys_pipelines.features.convert import typed
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import ManifestError, Prepared
from recsys_pipelines.preparation.roles import column_specs
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.quarantine import Quarantine, TooManyBadRows
from recsys_pipelines.shards import read_shard
from recsys_pipelines.sources import SourceError
from recsys_pipelines.sources.table import Table

FEATURES = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    yaml.safe_load("""
        - {kind: categorical, names: [c], min_count: 2}
        - {kind: categorical, names: [h], encoding: hash}
        - {kind: categorical, names: [tags], multivalued: true}
        - {kind: numeric, names: [x]}
    """)
)
FILES, ROWS = 3, 40  # one staged part per file


def log(first, rows=ROWS):
    """Rows `first`… of a log: a new id of `c` every seven rows, empty lists, missing values."""
    n = np.arange(first, first + rows)
    return pa.table(
        {
            "label": pa.array((n % 3 == 0).astype(np.int64)),
            "c": pa.array([f"c{k // 7}" if k % 5 else None for k in n]),
            "h": pa.array([f"h{k}" if k % 4 else None for k in n]),
            "tags": pa.array([[1, 2, None][: k % 4] for k in n], pa.list_(pa.int64())),
            "x": pa.array([float(k) if k % 6 else None for k in n]),
            "t": pa.array(n // 10),
            "w": pa.array(n % 3 / 2),
            "p": pa.array(n / 1000),
        }
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log").mkdir()
    for part in range(FILES):
        pq.write_table(log(part * ROWS), tmp_path / "log" / f"{part}.parquet")
    return tmp_path / "log"


def declared(path, **options):
    return DataConfig.model_validate({"source": "table", "path": path, **options})


def split_rows(prepared, *columns):
    """{split: its rows, in the order of the shards}."""
    return {
        split: pa.concat_tables(
            read_shard(path) for path in sorted((prepared.path / split).glob("*.arrow"))
        ).select(columns or ["row_id"])
        for split in SPLITS
    }


def row_ids(prepared):
    return {split: rows["row_id"].to_pylist() for split, rows in split_rows(prepared).items()}


def contents(path):
    """Every file of a prepared folder but the lock, as bytes."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


# What comes out


def test_features_are_fitted_on_the_training_part_only(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path / "out")
    raw = [row for part in range(FILES) for row in log(part * ROWS).to_pylist()]
    train = raw[:96]
    counts = Counter(row["c"] for row in train if row["c"] is not None)
    ids = dict(zip(counts, string_ids(pa.array(list(counts))).tolist(), strict=True))
    kept = sorted((c for c in counts if counts[c] >= 2), key=lambda c: (-counts[c], ids[c]))
    code = {None: 0, **{c: 2 + place for place, c in enumerate(kept)}}
    known = [row["x"] for row in train if row["x"] is not None]
    tag_code = {tag: place for place, tag in enumerate([1, 2], 2)}

    rows = split_rows(prepared, "row_id", "c", "h", "tags", "x", "x:missing", "@label")
    seen = [row for split in SPLITS for row in rows[split].to_pylist()]
    assert [row["row_id"] for row in seen] == list(range(FILES * ROWS))
    for row, was in zip(seen, raw, strict=True):
        assert row["@label"] == was["label"]
        assert row["c"] == code.get(was["c"], 1)
        expected = MISSING_ID if was["h"] is None else string_ids(pa.array([was["h"]]))[0]
        assert row["h"] == expected
        assert row["tags"] == [0 if tag is None else tag_code[tag] for tag in was["tags"]]
        x = np.mean(known) if was["x"] is None else was["x"]
        assert row["x"] == pytest.approx((x - np.mean(known)) / np.std(known), abs=1e-6)
        assert row["x:missing"] == (was["x"] is None)
    assert any(row["c"] == 1 for row in seen[96:])  # new in validation and test


def test_manifest(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path / "out")
    manifest = prepared.manifest
    assert manifest.hash_version == HASH_VERSION
    assert (manifest.rows_in, manifest.rows_out, manifest.quarantined) == (120, 120, 0)
    assert manifest.row_counts_by_split == {
        "train": {"rows": 96, "positives": 32},
        "validation": {"rows": 12, "positives": 4},
        "test": {"rows": 12, "positives": 4},
    }
    assert manifest.columns == {
        "c": "int32",
        "h": "int64",
        "tags": "list<item: int32>",
        "x": "float",
        "x:missing": "float",
    }
    assert sorted(manifest.shards) == sorted(
        str(file.relative_to(prepared.path)) for file in prepared.path.rglob("*.arrow")
    )
    assert sum(shard.rows for shard in manifest.shards.values()) == 120
    features = Features.load(prepared.path / "features")
    assert manifest.vocabularies["c"].num_codes == features.categorical[0].num_codes
    assert manifest.vocabularies["h"].num_codes is None
    assert DataConfig.model_validate(manifest.data) == declared(folder)
    assert Prepared.open(prepared.path) == prepared
    assert not (prepared.path / "staged").exists()


def test_roles_become_columns_and_one_column_may_have_several(folder, tmp_path):
    data = declared(folder, user="c", time="t", weight="w", truth="p")
    rows = split_rows(prepare(data, FEATURES, tmp_path), "@user", "@time", "@weight", "@truth", "c")["train"]
    first = log(0).to_pylist()
    assert rows["@user"].to_pylist()[1:4] == string_ids(pa.array(["c0"] * 3)).tolist()
    lone = [user for user, row in zip(rows["@user"].to_pylist(), first, strict=False) if row["c"] is None]
    assert len(set(lone)) == len(lone) > 1, "rows without a user are not rows of one user"
    assert MISSING_ID not in lone
    for role, column in (("@time", "t"), ("@weight", "w"), ("@truth", "p")):
        assert rows[role].to_pylist()[:ROWS] == [row[column] for row in first]


def test_criteo_buckets(tmp_path):
    values = [None, -3, 0, 1, 2, 3, 100, 10**6] * 10
    table = pa.table({"label": [0, 1] * 40, "i1": pa.array(values, pa.int64())})
    pq.write_table(table, tmp_path / "a.parquet")
    features = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        yaml.safe_load("[{kind: categorical, names: [i1], buckets: squared_log, encoding: hash}]")
    )
    prepared = prepare(declared(tmp_path / "a.parquet"), features, tmp_path)
    buckets = split_rows(prepared, "i1")["train"]["i1"].to_pylist()[:8]
    assert buckets == [MISSING_ID, -3, 0, 1, 2, *(math.floor(math.log(x) ** 2) for x in (3, 100, 10**6))]


def test_a_generated_log_is_written_once(tmp_path):
    generator = {"rows": 500, "fields": [{"name": "user_id", "num_ids": 9}], "history": 0, "numeric": 0}
    data = DataConfig.model_validate({"source": "generated", "generator": generator})
    features = [CategoricalConfig(kind="categorical", names=("user_id",))]
    stages = []
    prepared = prepare(data, features, tmp_path, lambda stage, rows, *_: stages.append((stage, rows)))
    assert stages == [("generate", 500), ("read", 500), ("fit", 500), ("write", 500)]
    assert DataConfig.model_validate(prepared.manifest.data) == data
    stages.clear()
    hashed = [CategoricalConfig(kind="categorical", names=("user_id",), encoding="hash")]
    assert prepare(data, hashed, tmp_path, lambda stage, *_: stages.append(stage)).path != prepared.path
    assert stages == ["read", "fit", "write"]


# Splits


def test_split_by_order_cuts_at_exact_rows(folder, tmp_path):
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    ids = row_ids(prepare(declared(folder, split=shares), FEATURES, tmp_path))
    assert ids == {"train": [*range(60)], "validation": [*range(60, 90)], "test": [*range(90, 120)]}


def test_split_by_time_keeps_an_instant_together(tmp_path):
    rng = np.random.default_rng(0)
    # More than 2^53, where neighbouring nanoseconds are one float64.
    stamps = 1_700_000_000_000_000_000 + rng.integers(0, 30, 300)
    pq.write_table(
        pa.table({"label": rng.integers(0, 2, 300), "t": stamps, "c": rng.integers(0, 9, 300)}),
        tmp_path / "a.parquet",
    )
    data = declared(tmp_path / "a.parquet", time="t", split={"by": "time"})
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    rows = split_rows(prepare(data, features, tmp_path), "row_id", "@time")
    times = [set(rows[split]["@time"].to_pylist()) for split in SPLITS]
    assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])
    assert sum(len(t) for t in times) == len(set(stamps.tolist()))
    assert sorted(i for split in SPLITS for i in rows[split]["row_id"].to_pylist()) == [*range(300)]
    assert rows["train"].num_rows <= 240 < rows["train"].num_rows + np.sum(stamps == min(times[1]))


def test_split_at_random_is_a_function_of_the_row(folder, tmp_path):
    def split(seed):
        data = declared(folder, split={"by": "random", "seed": seed})
        return row_ids(prepare(data, FEATURES, tmp_path / "out"))

    before, other = split(3), split(4)
    assert sorted(i for ids in before.values() for i in ids) == [*range(120)]
    assert before != other
    pq.write_table(log(120), folder / "9.parquet")
    after = split(3)
    assert {name: [i for i in ids if i < 120] for name, ids in after.items()} == before


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        (1, {"by": "order"}, "train part gets none of 1 rows"),
        (4, {"by": "order"}, "validation part gets none of 4 rows"),
        (20, {"by": "time"}, "validation part gets none of 20 rows; rows of one time stay together"),
        (2, {"by": "random"}, "part gets none of 2 rows"),
    ],
)
def test_an_empty_part_is_an_error_before_anything_is_fitted(tmp_path, rows, split, message):
    pq.write_table(log(0, rows), tmp_path / "a.parquet")
    stages = []
    with pytest.raises(ValueError, match=message):
        prepare(
            declared(tmp_path / "a.parquet", time="t", split=split),
            FEATURES,
            tmp_path / "out",
            lambda stage, *_: stages.append(stage),
        )
    assert set(stages) == {"read"}


# Again


def test_a_second_run_does_nothing(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path / "out")

    def states():
        return {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}

    before, stages = states(), []
    again = prepare(declared(folder), FEATURES, tmp_path / "out", lambda stage, *_: stages.append(stage))
    assert again == prepared
    assert stages == []
    assert states() == before


def test_whatever_changes_the_result_makes_another_folder(folder, tmp_path):
    def path(features=FEATURES, **options):
        return prepare(declared(folder, **options), features, tmp_path / "out").path

    paths = [
        path(),
        path(label={"column": "t", "threshold": 3}),
        path(split={"by": "random"}),
        path(FEATURES[:1]),
    ]
    file = folder / "1.parquet"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    paths.append(path())
    pq.write_table(log(ROWS, ROWS + 1), file)
    paths.append(path())
    assert len(set(paths)) == len(paths)


def test_the_root_may_lie_in_the_folder_that_is_read(folder):
    assert prepare(declared(folder), FEATURES, folder / "out") == prepare(
        declared(folder), FEATURES, folder / "out"
    )


def test_verify_names_a_damaged_file(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path)
    prepared.verify()
    for name in ("test/part-0002-000000.arrow", "features/arrays.npz", "features/features.json"):
        file = prepared.path / name
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(ManifestError, match=name):
            prepared.verify()
        file.write_bytes(whole)
    prepared.verify()
    (prepared.path / "train" / "part-0000-000000.arrow").unlink()
    with pytest.raises(ManifestError, match=r"train/part-0000-000000\.arrow"):
        prepared.verify()


def test_manifests_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(ManifestError, match="not a finished"):
        Prepared.open(tmp_path)
    file = prepare(declared(folder), FEATURES, tmp_path / "out").path / "manifest.json"
    manifest = json.loads(file.read_text())
    for damaged in ("{", "[]", "{}"):
        file.write_text(damaged)
        with pytest.raises(ManifestError, match="damaged"):
            Prepared.open(file.parent)
    del manifest["manifest_xxh64"]
    file.write_text(json.dumps(manifest | {"hash_version": 99}))
    with pytest.raises(ManifestError, match="99"):
        Prepared.open(file.parent)


# Interrupted


class Interrupted(BaseException):
    pass


def interrupted_at(step, monkeypatch):
    """Let the `step`-th file that is put in place from now on stay under its temporary name, cut in half."""
    replace, count = Path.replace, 0

    def failing(path, target):
        nonlocal count
        count += 1
        if count == step:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Interrupted
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)


def test_a_run_interrupted_at_any_file_ends_like_one_that_was_not(folder, tmp_path, monkeypatch):
    whole = contents(prepare(declared(folder), FEATURES, tmp_path / "whole").path)
    files = len(whole) + 2 * FILES + 1  # those that stay, staged parts with their checksums, staged.json
    for step in range(1, files + 1):
        root = tmp_path / str(step)
        with monkeypatch.context() as patched:
            interrupted_at(step, patched)
            with pytest.raises(Interrupted):
                prepare(declared(folder), FEATURES, root)
        (unfinished,) = root.iterdir()
        assert not (unfinished / "manifest.json").exists()
        assert contents(prepare(declared(folder), FEATURES, root).path) == whole


def test_a_resumed_run_keeps_what_it_has(folder, tmp_path):
    written = []

    def stop(stage, rows, *_):
        if stage == "write":
            written.append(rows)
            if len(written) == 2:
                raise Interrupted

    with pytest.raises(Interrupted):
        prepare(declared(folder), FEATURES, tmp_path, stop)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("part-000[01]-000000.arrow")}
    assert len(kept) == 4  # two parts, staged and training
    stages = []
    prepared = prepare(declared(folder), FEATURES, tmp_path, lambda stage, *_: stages.append(stage))
    assert stages == ["write"] * 3
    for file, written_at in kept.items():
        assert "staged" in file.parts or file.stat().st_mtime_ns == written_at
    prepared.verify()


def test_without_manifest_and_staged_rows_nothing_is_trusted(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path)
    whole = contents(prepared.path)
    (prepared.path / "manifest.json").unlink()
    damaged = prepared.path / "train" / "part-0000-000000.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert contents(prepare(declared(folder), FEATURES, tmp_path).path) == whole


def test_staged_rows_left_by_a_kill_after_the_manifest_are_removed(folder, tmp_path):
    prepared = prepare(declared(folder), FEATURES, tmp_path)
    whole = contents(prepared.path)
    (prepared.path / "staged").mkdir()
    (prepared.path / "staged" / "part-0001-000000.arrow").write_bytes(b"half")
    prepare(declared(folder), FEATURES, tmp_path)
    assert contents(prepared.path) == whole


# Killed as from outside: at a moment that has nothing to do with what the process is at.
KILLED = """
import sys
from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.preparation.prepare import prepare
from pathlib import Path

features = [CategoricalConfig(kind="categorical", names=("c", "h"))]
print("ready", flush=True)
prepare(DataConfig(source="table", path=sys.argv[1]), features, Path(sys.argv[2]))
"""


def test_killed_again_and_again(folder, tmp_path):
    features = [CategoricalConfig(kind="categorical", names=("c", "h"))]
    whole = contents(prepare(declared(folder), features, tmp_path / "whole").path)
    rng = np.random.default_rng(0)
    for _ in range(6):
        command = [sys.executable, "-P", "-c", KILLED, str(folder), str(tmp_path / "out")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.03))
        child.kill()
        child.wait()
        child.stdout.close()
    prepared = prepare(declared(folder), features, tmp_path / "out")
    assert contents(prepared.path) == whole


def test_staged_parts_of_a_killed_run_are_not_read_again(folder, tmp_path, monkeypatch):
    whole = contents(prepare(declared(folder), FEATURES, tmp_path / "whole").path)

    def stop(stage, *_):
        raise Interrupted

    with pytest.raises(Interrupted):
        prepare(declared(folder), FEATURES, tmp_path / "out", stop)
    staged = len(list(tmp_path.rglob("out/**/staged/*.arrow.xxh64")))
    assert staged > 0
    converted = []
    monkeypatch.setattr(
        "recsys_pipelines.preparation.steps.typed",
        lambda chunk, *rest: converted.append(chunk) or typed(chunk, *rest),
    )
    prepared = prepare(declared(folder), FEATURES, tmp_path / "out")
    assert len(converted) == FILES - staged
    assert contents(prepared.path) == whole


@pytest.mark.parametrize("stage", ["read", "write"])  # while parts are staged, and when all are
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"\0x"])
def test_a_damaged_staged_part_is_read_again(folder, tmp_path, stage, damage):
    whole = contents(prepare(declared(folder), FEATURES, tmp_path / "whole").path)

    def stop(now, *_):
        if now == stage:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(declared(folder), FEATURES, tmp_path / "out", stop)
    part = next(tmp_path.rglob("out/**/staged/part-0000-000000.arrow"))
    part.write_bytes(damage(part.read_bytes()))
    assert contents(prepare(declared(folder), FEATURES, tmp_path / "out").path) == whole


# Appending


def test_a_new_day_keeps_codes_and_shards(folder, tmp_path):
    first = prepare(declared(folder), FEATURES, tmp_path)
    (tmp_path / "day").mkdir()
    pq.write_table(log(FILES * ROWS), tmp_path / "day" / "new.parquet")
    both = prepare(declared(tmp_path / "day"), FEATURES, tmp_path, base=first)
    both.verify()
    old, new = first.features().categorical, both.features().categorical
    assert new[0].ids[: len(old[0].ids)].tolist() == old[0].ids.tolist()
    assert len(new[0].ids) > len(old[0].ids)
    counts = both.manifest
    assert [counts.rows_in, counts.rows_out, counts.next_row] == [160, 160, 160]
    assert counts.appended_to == first.path.name
    ids = row_ids(both)
    assert sorted(i for split in ids.values() for i in split) == list(range(160))
    for split, rows in row_ids(first).items():
        assert ids[split][: len(rows)] == rows
    for name, shard in first.manifest.shards.items():
        part, _, file = name.partition("/")
        assert counts.shards[f"{part}/base-{file}"] == shard
    # numbers stay on the scale they had
    assert both.features().features[3].to_dict() == first.features().features[3].to_dict()
    # a third day goes on from there
    (tmp_path / "last").mkdir()
    pq.write_table(log((FILES + 1) * ROWS), tmp_path / "last" / "new.parquet")
    all_ = prepare(declared(tmp_path / "last"), FEATURES, tmp_path, base=both)
    assert all_.manifest.rows_out == 200
    assert all_.features().categorical[0].ids[: len(new[0].ids)].tolist() == new[0].ids.tolist()
    assert sorted(i for split in row_ids(all_).values() for i in split) == list(range(200))


def test_an_id_seen_once_on_each_of_two_days_is_frequent_enough(tmp_path):
    for day, values in (("a", ["x", "y", "y", "y"] * 5 + ["z"]), ("b", ["z", "y", "y", "y"] * 5)):
        table = pa.table({"label": [k % 2 for k in range(len(values))], "c": values})
        pq.write_table(table, tmp_path / f"{day}.parquet")
    features = [CategoricalConfig(kind="categorical", names=("c",), min_count=5)]
    options = {"split": {"by": "order", "train": 0.9, "validation": 0.05, "test": 0.05}}
    first = prepare(declared(tmp_path / "a.parquet", **options), features, tmp_path / "out")
    both = prepare(declared(tmp_path / "b.parquet", **options), features, tmp_path / "out", base=first)
    old, new = (set(p.features().categorical[0].ids.tolist()) for p in (first, both))
    x, y, z = string_ids(pa.array(["x", "y", "z"])).tolist()
    assert (old, new) == ({x, y}, {x, y, z})


STATISTIC = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    [{"kind": "categorical", "names": ["h"]}, {"kind": "statistic", "columns": ["c"], "folds": 3}]
)


@pytest.mark.parametrize("days", [1, 2])
def test_rows_of_a_new_day_get_the_statistics_of_those_before(tmp_path, days):
    """No statistic was fitted on them, so none of its folds is theirs; and none is kept for serving."""
    paths = []
    for day in range(days + 1):
        paths.append(tmp_path / f"{day}.parquet")
        pq.write_table(log(day * 2 * ROWS, 2 * ROWS), paths[-1])
    ready = first = prepare(declared(paths[0]), STATISTIC, tmp_path / "out")
    for path in paths[1:]:
        ready = prepare(declared(path), STATISTIC, tmp_path / "out", base=ready)
    (statistic,) = ready.features().statistics
    assert statistic.rows.ndim == 1
    for name, array in first.features().statistics[0].arrays().items():
        assert np.array_equal(statistic.arrays()[name], array)
    columns = ("c:ctr", "c:count")
    of_training = first.features().transform(pq.read_table(paths[0])).select(columns)
    out_of_fold = split_rows(first, "row_id", *columns)["train"]
    kept = of_training.take(out_of_fold["row_id"])
    assert not out_of_fold.select(columns).equals(kept), "no row of training knows its own label"
    added = pa.concat_tables(split_rows(ready, "row_id", *columns).values())
    added = added.filter(pa.compute.greater_equal(added["row_id"], days * 2 * ROWS))
    served = first.features().transform(pq.read_table(paths[-1]))
    places = pa.compute.subtract(added["row_id"], days * 2 * ROWS)
    assert added.num_rows == 2 * ROWS
    assert added.select(columns).equals(served.take(places).select(columns))


def test_what_does_not_belong_together_is_not_appended(folder, tmp_path):
    first = prepare(declared(folder), FEATURES, tmp_path)
    (tmp_path / "day").mkdir()
    day = tmp_path / "day" / "new.parquet"
    pq.write_table(log(FILES * ROWS), day)
    with pytest.raises(ManifestError, match="declared differently"):
        prepare(declared(day), FEATURES[:2], tmp_path, base=first)
    with pytest.raises(ManifestError, match=r"its data\.weight is None, and here it is 'w'"):
        prepare(declared(day, weight="w"), FEATURES, tmp_path, base=first)
    with pytest.raises(ManifestError, match=r"holds the rows of .*0\.parquet already"):
        prepare(declared(folder), FEATURES, tmp_path, base=first)
    pq.write_table(log(FILES * ROWS).set_column(1, "c", pa.array(range(ROWS))), day)
    with pytest.raises(ValueError, match=r"new\.parquet: column 'c' holds integers, but text in training"):
        prepare(declared(day), FEATURES, tmp_path, base=first)
    damaged = first.path / "train" / "part-0000-000000.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ManifestError, match=r"train/part-0000-000000\.arrow: missing or damaged"):
        prepare(declared(day), FEATURES, tmp_path, base=first)


def test_a_file_that_changes_while_it_is_read_is_no_set(folder, tmp_path):
    def rewrite(stage, *_):
        if stage == "fit":
            pq.write_table(log(7), folder / "1.parquet")

    with pytest.raises(SourceError, match="has changed while it was read"):
        prepare(declared(folder), FEATURES, tmp_path / "out", rewrite)
    assert not list(tmp_path.rglob("out/*/manifest.json"))
    assert not list(tmp_path.rglob("out/*/staged"))


def test_an_error_of_the_disk_leaves_what_was_staged(folder, tmp_path, monkeypatch):
    def fails(path, *_):
        raise OSError("No space left on device")

    whole = contents(prepare(declared(folder), FEATURES, tmp_path / "whole").path)
    with monkeypatch.context() as patched:
        patched.setattr(pa.ipc, "new_file", fails)
        with pytest.raises(OSError, match=r"part-0000-000000\.arrow: cannot be written .*make room"):
            prepare(declared(folder), FEATURES, tmp_path / "out")
    prepared = prepare(declared(folder), FEATURES, tmp_path / "out")
    assert contents(prepared.path) == whole


def test_every_bad_row_is_listed_and_a_hopeless_log_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys_pipelines.quarantine.MOST_EXAMPLES", 5)
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 400)
    monkeypatch.setattr("recsys_pipelines.preparation.steps.HOPELESS", 30)
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    write_csv(tmp_path / "a.csv", [["x" if k % 2 else k % 4 // 2, f"c{k}"] for k in range(600)])
    prepared = prepare(declared(tmp_path / "a.csv", quarantine_limit=0.6), features, tmp_path / "out")
    with (prepared.path / "quarantine" / "quarantine.csv").open() as file:
        assert [int(row["line"]) for row in csv.DictReader(file)] == list(range(3, 602, 2))
    stages = []
    with pytest.raises(TooManyBadRows, match="label: not a number"):
        prepare(
            declared(tmp_path / "a.csv", quarantine_limit=0.01),
            features,
            tmp_path / "out",
            lambda stage, rows, *_: stages.append(rows),
        )
    assert max(stages) < 200, "it stopped long before the end"


def test_a_vocabulary_that_is_not_there_is_named_before_anything_is_read(folder, tmp_path):
    feature = CategoricalConfig(kind="categorical", names=("c",), vocabulary=tmp_path / "v.txt")
    with pytest.raises(SourceError, match=r"v\.txt: there is no such vocabulary, which feature 'c' names"):
        prepare(declared(folder), [feature], tmp_path / "out")


def test_a_set_is_named_by_the_ids_it_keeps_wherever_they_lie(folder, tmp_path):
    counts = Counter(row["c"] for part in range(FILES) for row in log(part * ROWS).to_pylist() if row["c"])
    frequent = string_ids(pa.array([value for value, _ in counts.most_common(4)]))
    kept = CategoricalConfig(kind="categorical", names=("c", "h"), keep=tmp_path / "kept")
    sets = []
    for number, ids in enumerate((frequent, frequent[1:], frequent)):
        place = tmp_path / "kept" if number < 2 else tmp_path / "moved"
        place.mkdir(exist_ok=True)
        for name in kept.names:
            np.save(place / f"{name}.npy", ids)
        feature = kept.model_copy(update={"keep": place})
        sets.append(prepare(declared(folder), [feature], tmp_path / "out"))
    assert sets[0].path != sets[1].path, "another content, though it lies in the same place"
    assert sets[0].path == sets[2].path, "the same content, in another place"
    sizes = [{name: v.num_codes for name, v in found.manifest.vocabularies.items()} for found in sets]
    assert sizes == [{"c": 6, "h": 2}, {"c": 5, "h": 2}, {"c": 6, "h": 2}]
    whole = prepare(
        declared(folder), [CategoricalConfig(kind="categorical", names=("c", "h"))], tmp_path / "out"
    )
    assert whole.path not in [found.path for found in sets]
    assert [whole.manifest.vocabularies[name].full_codes for name in kept.names] == [
        sets[1].manifest.vocabularies[name].full_codes for name in kept.names
    ]


def test_ids_to_keep_that_are_not_there_are_named_before_anything_is_read(folder, tmp_path):
    feature = CategoricalConfig(kind="categorical", names=("c", "h"), keep=tmp_path)
    np.save(tmp_path / "c.npy", np.array([1]))
    with pytest.raises(SourceError, match=r"h\.npy: cannot be read .* `keep` of feature 'h' takes"):
        prepare(declared(folder), [feature], tmp_path / "out")
    np.save(tmp_path / "h.npy", np.array([1.5]))
    with pytest.raises(SourceError, match=r"h\.npy: holds float64 \[1\]"):
        prepare(declared(folder), [feature], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_two_at_once_share_the_work(folder, tmp_path):
    stages = []

    def slow(stage, *_):
        stages.append(stage)
        time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: prepare(declared(folder), FEATURES, tmp_path, slow), range(2))
    assert one == two
    assert stages == ["read"] * 3 + ["fit"] + ["write"] * 3
    one.verify()


# Bad input


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["label", "c"], *rows])


def test_bad_rows_are_counted_and_listed_also_after_an_interruption(tmp_path):
    rows = [[k % 2, f"c{k}"] for k in range(200)]
    rows[3][0], rows[50][0] = "2", "x"
    write_csv(tmp_path / "a.csv", rows)
    features = [CategoricalConfig(kind="categorical", names=("c",))]

    def stop(stage, *_):
        if stage == "fit":
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(declared(tmp_path / "a.csv"), features, tmp_path / "out", stop)
    prepared = prepare(declared(tmp_path / "a.csv"), features, tmp_path / "out")
    counts = [getattr(prepared.manifest, name) for name in ("rows_in", "rows_out", "quarantined")]
    assert counts == [200, 198, 2]
    assert sum(split.rows for split in prepared.manifest.splits.values()) == 198
    assert not {3, 50} & {i for ids in row_ids(prepared).values() for i in ids}
    with (prepared.path / "quarantine" / "quarantine.csv").open() as file:
        listed = [(row["line"], row["field"], row["value"]) for row in csv.DictReader(file)]
    assert sorted(listed) == [("5", "label", "2"), ("52", "label", "x")]


def test_too_many_bad_rows_name_the_commonest_reasons_and_leave_only_the_list(tmp_path):
    write_csv(tmp_path / "a.csv", [[["0", "1", "7", "", "8"][k % 5], "c"] for k in range(50)])
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    with pytest.raises(
        TooManyBadRows, match=r"30 of 50 rows .*neither 0 nor 1 \(20 rows.*missing label \(10"
    ):
        prepare(declared(tmp_path / "a.csv"), features, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    assert list(contents(folder)) == ["quarantine/quarantine.csv"]


def test_every_row_bad_is_an_error_under_any_limit(tmp_path):
    write_csv(tmp_path / "a.csv", [["7", "c"]] * 3)
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    with pytest.raises(ValueError, match=r"a\.csv.*no readable row"):
        prepare(declared(tmp_path / "a.csv", quarantine_limit=1), features, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"label,c\n", "no rows"), (b"label,d\n1,x\n", "no column 'c'")]
)
def test_files_without_rows_or_columns(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(SourceError, match=rf"a\.csv.*{message}"):
        prepare(
            declared(tmp_path / "a.csv"),
            [CategoricalConfig(kind="categorical", names=("c",))],
            tmp_path / "out",
        )


def test_a_feature_declared_twice_is_refused_before_any_work(tmp_path):
    twice = CategoricalConfig(kind="categorical", names=("c",))
    with pytest.raises(ValueError, match="'c' is declared twice"):
        prepare(declared(tmp_path / "no.csv"), [twice, twice], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unlabelled_rows_need_neither_label_nor_time():
    data = declared("a.csv", user="u", time="t", weight="w", truth="p")
    assert set(column_specs(data, FEATURES, labelled=False)) == {"c", "h", "tags", "x", "@user"}
    roles = {"@user", "@label", "@time", "@weight", "@truth"}
    assert set(column_specs(data, FEATURES, labelled=True)) == {"c", "h", "tags", "x", *roles}


CASES = Path(__file__).parents[4] / "shared" / "cases"


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    "case",
    [
        "folders/hive",
        "id_types/u64.parquet",
        "id_types/uuid.parquet",
        "id_types/dec.parquet",
        "polars_ipc/zstd.arrow",
    ],
)
def test_the_shared_cases(tmp_path, case):
    features = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [
            {"kind": "categorical", "names": ["user_id", "item_id"]},
            {"kind": "numeric", "names": ["price"]},
        ]
    )
    split = {"by": "order", "train": 0.6, "validation": 0.2, "test": 0.2}
    data = declared(CASES / case, label={"column": "clicked"}, split=split)
    prepared = prepare(data, features, tmp_path)
    assert (prepared.manifest.rows_in, prepared.manifest.rows_out) == (2000, 2000)
    source = Table(CASES / case).chunks(["user_id"], Quarantine())
    users = [value for chunk in source for value in chunk.table["user_id"].to_pylist()]
    vocabulary = prepared.features().categorical[0]
    assert len(vocabulary.ids) == len(set(users[:1200]))
