"""Ray gives the shards of one process, to the byte."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.sources import SourceError, blocks, delimited
from recsys_pipelines.sources.dialect import COMMA

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
from recsys_pipelines.preparation import on_ray as cluster  # noqa: E402
from recsys_pipelines.preparation import session as sessions  # noqa: E402

FEATURES = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    [
        {"kind": "categorical", "names": ["c"], "min_count": 2},
        {"kind": "categorical", "names": ["u"], "encoding": "hash"},
        {"kind": "numeric", "names": ["x"]},
        {"kind": "buckets", "columns": ["x"], "quantiles": 5},
        {"kind": "statistic", "columns": ["c"]},
        {"kind": "sequence", "name": "history", "column": "c", "length": 3, "like": "c"},
    ]
)


@pytest.fixture(scope="module")
def session():
    with sessions.ray_session(2):
        yield
    assert not ray.is_initialized()


def rows(first, n):
    k = np.arange(first, first + n)
    return pa.table(
        {
            "label": k % 2,
            "c": [f"c{i % 97}" if i % 11 else None for i in k],
            "u": [f"u{i % 31}" for i in k],
            "x": pa.array(np.sin(k) * 1e3, mask=k % 7 == 0),
            "t": (k * 7919) % 5000,
        }
    )


def contents(path):
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def declared(path):
    options = {"user": "u", "time": "t", "split": {"by": "time"}}
    return DataConfig.model_validate({"source": "table", "path": path, **options})


def both(path, tmp_path):
    one = prepare(declared(path), FEATURES, tmp_path / "one")
    many = prepare(declared(path), FEATURES, tmp_path / "many", runner=cluster.RayData(2))
    return contents(one.path), contents(many.path)


def test_text_in_pieces(session, tmp_path, monkeypatch):
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows(0, 6000).to_pylist()]
    lines[777] = "7,c,u,x,1"  # quarantined: neither its label nor its number can be read
    lines[5555] += ",too,wide"
    (tmp_path / "log.csv").write_text("\n".join(["label,c,u,x,t", *lines]))
    monkeypatch.setattr(blocks, "BLOCK", 20_000)
    monkeypatch.setattr(delimited, "BLOCKS_OF_PIECE", 2)
    monkeypatch.setattr(cluster, "PARTS_OF_FIT", 1)  # a tree of merges of several levels
    pieces = len(delimited.DelimitedFile(tmp_path / "log.csv", COMMA).pieces())
    assert pieces > 4
    one, many = both(tmp_path / "log.csv", tmp_path)
    assert {name for name in one if one[name] != many.get(name)} == set()
    assert one == many
    assert sum(name.startswith("train/") for name in one) > 5
    assert b"too" in one["quarantine/quarantine.csv"]


def test_a_folder_of_files(session, tmp_path):
    (tmp_path / "log").mkdir()
    for number in range(3):
        pq.write_table(rows(1000 * number, 1000), tmp_path / "log" / f"{number}.parquet")
    one, many = both(tmp_path / "log", tmp_path)
    assert {name for name in one if one[name] != many.get(name)} == set()
    assert one == many


def test_what_is_wrong_with_a_file_is_said(session, tmp_path):
    (tmp_path / "log.csv").write_text("label,c,u,x,t\n")
    with pytest.raises(SourceError, match="no rows"):
        prepare(declared(tmp_path / "log.csv"), FEATURES, tmp_path, runner=cluster.RayData(2))


def test_an_error_inside_a_task_is_that_of_one_process(session, tmp_path):
    (tmp_path / "log").mkdir()
    for number in range(2):
        pq.write_table(rows(1000 * number, 1000), tmp_path / "log" / f"{number}.parquet")
    damaged = tmp_path / "log" / "1.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:2000] = b"\xff" * 1996
    damaged.write_bytes(content)
    said = []
    for runner in (None, cluster.RayData(2)):
        with pytest.raises(SourceError) as caught:
            prepare(declared(tmp_path / "log"), FEATURES, tmp_path / "out", runner=runner)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "1.parquet" in said[0]


@pytest.mark.parametrize("number", [1, 137])
def test_a_task_that_always_dies_is_given_up_and_told(session, monkeypatch, number):
    monkeypatch.setattr(cluster, "RETRIES", 1)

    def work(rows):
        if any(row["item"] == 3 for row in rows):
            os._exit(number)
        return rows

    wanted = r"lost its worker 2 times.*fewer --workers; what was finished is kept"
    with pytest.raises(cluster.TasksLost, match=wanted):
        list(cluster.RayData(2)._run([{"item": item} for item in range(6)], work))


def test_workers_that_are_lost_for_good_are_a_sentence(session):
    @ray.remote(max_restarts=0)
    class Worker:
        def end(self):
            os._exit(1)

    def lose():
        with sessions.ray_session(1):
            ray.get(Worker.remote().end.remote())

    with pytest.raises(ValueError, match=r"Ray has lost workers or a node.*the same command goes on"):
        lose()


def test_after_lost_tasks_the_same_command_goes_on(session, tmp_path, monkeypatch):
    pq.write_table(rows(0, 500), tmp_path / "log.parquet")
    monkeypatch.setattr(cluster, "RETRIES", 0)
    monkeypatch.setattr(cluster, "write_arrays", lambda *_: os._exit(9))  # of counts, in a worker
    with pytest.raises(cluster.TasksLost, match="lost its worker 1 times"):
        prepare(declared(tmp_path / "log.parquet"), FEATURES, tmp_path / "out", runner=cluster.RayData(2))
    monkeypatch.undo()
    done = prepare(declared(tmp_path / "log.parquet"), FEATURES, tmp_path / "out", runner=cluster.RayData(2))
    assert done.manifest.rows_in == 500


def test_a_cluster_that_is_not_there_is_named_at_once():
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9: no Ray cluster can be reached"):
        sessions._require_reachable("127.0.0.1:9")


def test_more_workers_than_cpus_do_not_wait_for_ever(session):
    with (
        pytest.raises(ValueError, match="the cluster has 2 CPUs, and 3 workers were asked for"),
        sessions.ray_session(3),
    ):
        pass
