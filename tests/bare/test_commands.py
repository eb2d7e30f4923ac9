"""The half without torch works without it: a process in which nothing that the extras bring can be imported.

`make test-bare` runs this in an environment without torch too, where the wheel is installed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

EXTRAS = ("torch", "torchrec", "fbgemm_gpu", "tensordict", "safetensors", "sklearn", "tensorboard")
EXTRAS += ("ray", "optuna", "matplotlib", "pandas", "statsmodels", "tea_tasting")
# No finder finds them, as where they are not installed.
WITHOUT = f"""
import sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
# Runs many command lines in one process, for each of which a new one would import SciPy and Polars again.
DRIVER = f"""{WITHOUT}
import contextlib, io, json
from recsys.cli import main
for line in sys.stdin:
    sys.argv = ["recsys", *json.loads(line)]
    text, status = io.StringIO(), 0
    with contextlib.redirect_stdout(text):
        try:
            main()
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, text.getvalue()]), flush=True)
"""
EXPERIMENT = {
    "name": "small",
    "data": {
        "source": "generated",
        "generator": {
            "rows": 3000,
            "fields": [{"name": "user_id", "num_ids": 90}, {"name": "item_id", "num_ids": 40}],
        },
        "user": "user_id",
        "time": "time",
        "split": {"by": "time", "train": 0.7, "validation": 0.1, "test": 0.2},
    },
    "features": [
        {"kind": "numeric", "names": ["numeric_0"], "transform": "log"},
        {"kind": "categorical", "names": ["user_id", "item_id"]},
    ],
    "tables": {"scheme": "full", "embedding_dim": 4},
    "model": {"name": "fm"},
    "training": {"batch_size": 512, "epochs": 1},
}


def run(lines: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """The exit status and the standard output of each command line."""
    environment = os.environ | {"COLUMNS": "200"}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        input="".join(json.dumps([*line, "--json"]) + "\n" for line in lines),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return [(status, text) for status, text in map(json.loads, ran.stdout.splitlines())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment, and the logs and predictions of 600 users, as text."""
    place, random = tmp_path_factory.mktemp("bare"), np.random.default_rng(0)
    (place / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    n = 1200
    user = np.arange(n) % 600
    click = (random.random(n) < 0.3).astype(int)
    for name, noise in (("a", 0.2), ("b", 1.0)):
        score = 1 / (1 + np.exp(-(click - 1 + random.normal(0, noise, n))))
        frame = {
            "row_id": np.arange(n),
            "user_id": user,
            "label": click,
            "prediction": score,
            "site": user % 3,
        }
        pl.DataFrame(frame).write_csv(place / f"{name}.csv")
    action, target = random.integers(0, 3, n), np.array([0.5, 0.3, 0.2])
    logged = {"action": action, "reward": click, "propensity": np.full(n, 1 / 3)}
    pl.DataFrame(logged).write_csv(place / "bandit.csv")
    policy = {"row_id": np.arange(n), "probability": target[action]}
    policy |= {str(other): np.full(n, target[other]) for other in range(3)}
    pl.DataFrame(policy).write_csv(place / "policy.csv")
    pl.DataFrame(
        {
            "user_id": user,
            "variant": np.where(user % 2 == 0, "control", "new"),
            "day": [f"2026-01-{1 + i * 3 // n:02d}" for i in range(n)],
            "clicks": click,
            "shows": 1 + user % 3,
        }
    ).write_csv(place / "assignments.csv")
    lists = [(i // 2, i // 20, 1 + i % 2, i % 2, "AB"[(i + i // 2) % 2], click[i]) for i in range(n)]
    columns = ["impression", "user", "position", "item", "team", "click"]
    pl.DataFrame(lists, schema=columns, orient="row").write_csv(place / "drafts.csv")
    return place


def test_what_the_bare_installation_does(folder: Path) -> None:
    prepared = json.loads(run([["prepare", "small.yaml"]], folder)[0][1])["path"]
    lines = [
        ["prepare", "small.yaml"],
        ["sources"],
        ["init", "a.csv"],
        ["inspect", prepared],
        ["tables", "small.yaml"],
        ["drift", prepared, prepared],
        ["compare", "a.csv", "b.csv"],
        ["compare", "a.csv", "b.csv", "--slice", "site"],
        ["ope", "bandit.csv", "--policy", "policy.csv"],
        ["ope", "bandit.csv", "--policy", "uniform"],
        ["replay", "bandit.csv", "--policy", "policy.csv"],
        ["interleave", "drafts.csv"],
        ["abtest", "assignments.csv", "--metric", "clicks", "--ratio", "clicks/shows", "--day", "day"],
    ]
    for line, (status, text) in zip(lines, run(lines, folder), strict=True):
        assert status == 0, (line, text)
        result: Any = json.loads(text)
        assert "error" not in result, (line, result)
        if "report" in result:
            page = (folder / result["report"]).read_text(encoding="utf-8")
            assert "pip install &#39;recsys-embedding-tables[pictures]&#39;" in page, line
            assert "<img" not in page


@pytest.mark.parametrize(
    ("extra", "lines"),
    [
        (
            "cpu",
            [
                ["train", "small.yaml"],
                ["tune", "small.yaml"],
                ["tables", "small.yaml", "--ranks", "2"],
                ["compress", "small.yaml"],
                ["demo"],
                ["compare", "small.yaml", "small.yaml"],
                ["evaluate", "run"],
                ["predict", "run", "a.csv", "--out", "b.parquet"],
                ["export", "run", "--out", "artefact"],
                ["checkpoints", "run"],
                ["ope", "bandit.csv", "--policy", "."],
            ],
        ),
        ("ray", [["prepare", "small.yaml", "--workers", "2"]]),
    ],
)
def test_what_it_does_not_names_the_extra(extra: str, lines: list[list[str]], folder: Path) -> None:
    for line, (status, text) in zip(lines, run(lines, folder), strict=True):
        assert status == 2, (line, text)
        assert f"pip install 'recsys-embedding-tables[{extra}]'" in json.loads(text)["error"], line


LIBRARY = f"""{WITHOUT}
import tempfile
from pathlib import Path
import numpy as np, pyarrow as pa
import recsys, recsys_cython_ext, recsys_pipelines, recsys_tables
from recsys_cython_ext.extras import MissingExtra

assert recsys_cython_ext.string_ids(pa.array(["a", "b"])).dtype == np.int64
for package, name in ((recsys, "train"), (recsys_tables, "EmbeddingEngine"), (recsys, "run_comparison")):
    try:
        getattr(package, name)
    except MissingExtra as error:
        assert f"{{name}} cannot be imported: " in str(error), error
        assert "pip install 'recsys-embedding-tables[cpu]'" in str(error)
    else:
        raise SystemExit(f"{{name}} needs no torch")
try:
    recsys_pipelines.Loader(None, 256, 0)
except MissingExtra as error:
    assert "torch is not installed" in str(error)
else:
    raise SystemExit("batches need no torch")
for package in (recsys, recsys_pipelines):
    assert callable(package.compare if package is recsys else package.Features)

from recsys_tables.schemes.full import Full
from recsys_tables.schemes.hashed import Hash
from recsys_tables.serving import artefact, write
fields = (recsys_tables.Field(Full("user", 60, 8)), recsys_tables.Field(Hash("item", 7, 8)))
with tempfile.TemporaryDirectory() as folder:
    tables = {{"user/full": np.ones((60, 8), np.float32)}}
    place, zeros = Path(folder) / "artefact", np.zeros((7, 8), np.float32)
    write.write(place, fields, lambda name: tables.get(name, zeros), "int8", None)
    opened = artefact.open(place)
    assert opened.vectors("user", np.array([3, 59])).tolist() == [[1.0] * 8] * 2
    assert opened.vectors("item", np.array([12345678901])).tolist() == [[0.0] * 8]
"""


def test_the_library_without_torch() -> None:
    ran = subprocess.run([sys.executable, "-P", "-c", LIBRARY], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
