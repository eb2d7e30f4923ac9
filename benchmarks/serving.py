"""One request in one process: the predictor of an exported folder beside eager torch, and what a request's parts take.

python benchmarks/serving.py --data criteo80k.parquet [--rounds 300] [--rows 20000]

A DeepFM (400, 400) over full tables is trained for one epoch on the first --rows of a Parquet file with Criteo's columns,
and exported. Then all take turns, one thread each: the answer to one row as a dict (median and 99th percentile over
--rounds rows), and to 1,000 rows (median over a twentieth as many rounds).

`features.transform + eager` is what serving was without a request's own transform: the fitted features through Arrow, then
torch. `eager, dict` has a Python dict per vocabulary and `index_select`; `eager, tensors` is given codes and numbers.
Torch-RecHub's program takes part where it is installed (`serving_rivals.py`). `matrix products` are those of the network's
linear layers alone. Opening is measured in fresh processes, the best of five, for the folder and for one whose feature c3
has --ids ids.
"""

import argparse
import copy
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from serving_rivals import rechub_program
from torch import nn

from recsys.config import load_experiment
from recsys.models import build
from recsys.planning import fields_of, plan_of
from recsys.serving.export import export
from recsys.serving.predictor import MODEL, PROGRAM, REQUEST, Predictor
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.encoding.vocabulary import ExactVocabulary
from recsys_pipelines.features import Features, Numeric
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.request.write import write_request
from recsys_tables.bytes import ResidentBytes
from recsys_tables.serving.write import write

CRITEO = Path(__file__).resolve().parents[1] / "configs/criteo/full.yaml"
RANKED = 1000
OF_ITEMS = ("c3", "c4", "c10", "i5", "i7")  # columns that candidates differ in


class Eager:
    """The run's network in torch, over tables that are read by `index_select`."""

    def __init__(self, run: Run) -> None:
        self.features = run.features()
        config, saved = run.config, run.checkpoint()
        self.categorical = list(self.features.categorical)
        self.numeric = [feature for feature in self.features.features if isinstance(feature, Numeric)]
        names = [feature.name for feature in self.categorical]
        dim = config.tables.embedding_dim
        self.network = build(config.model, len(self.features.numeric_columns), names, dim)
        prefix = "dense/network."
        self.network.load_state_dict(
            {name.removeprefix(prefix): saved.read(name) for name in saved.names if name.startswith(prefix)}
        )
        self.network.eval()
        self.tables = [saved.read(f"table/{name}/full") for name in names]
        self.codes = [
            {int(key): code + 2 for code, key in enumerate(feature.vocabulary.ids)}
            for feature in self.categorical
        ]

    def __call__(self, dense: torch.Tensor, codes: torch.Tensor) -> np.ndarray:
        """Answer codes [n, F] and numbers [n, k]."""
        with torch.inference_mode():
            vectors = [
                torch.index_select(table, 0, of_field)
                for table, of_field in zip(self.tables, codes.T, strict=True)
            ]
            return torch.sigmoid(self.network(dense, torch.stack(vectors, dim=1)).double()).numpy()

    def tensors(self, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a loop in Python makes of a row."""
        numbers = []
        for feature in self.numeric:
            value = row.get(feature.name)
            if value is None:
                numbers.append((feature.fill - feature.mean) / feature.deviation)
            else:
                logarithm = math.copysign(math.log1p(abs(value)), value)
                numbers.append((logarithm - feature.mean) / feature.deviation)
            if feature.indicator:
                numbers.append(float(value is None))
        codes = [
            0 if row.get(feature.name) is None else known.get(int(row[feature.name]), 1)
            for feature, known in zip(self.categorical, self.codes, strict=True)
        ]
        return torch.tensor([numbers], dtype=torch.float32), torch.tensor([codes])

    def through_arrow(self, rows: Any) -> np.ndarray:
        """Answer rows that the fitted features transform."""
        table = self.features.transform(rows)
        dense = np.stack([table[name].to_numpy() for name in self.features.numeric_columns], axis=1)
        codes = np.stack([table[feature.name].to_numpy() for feature in self.categorical], axis=1)
        return self(torch.from_numpy(dense), torch.from_numpy(codes.astype(np.int64)))

    def products(self, rows: int) -> Callable[[], None]:
        """Return a call that does the matrix products of so many rows."""
        layers = [layer for layer in self.network.modules() if isinstance(layer, nn.Linear)]
        inputs = [torch.zeros(rows, layer.in_features) for layer in layers]

        def run() -> None:
            with torch.inference_mode():
                for layer, values in zip(layers, inputs, strict=True):
                    layer(values)

        return run


def take_turns(arms: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds of each arm in each round; in every round they come in another order."""
    random = np.random.default_rng(0)
    seconds = {name: np.empty(rounds) for name in arms}
    for number in range(-max(5, rounds // 20), rounds):  # the first ones are not counted
        for name in random.permutation(list(arms)):
            began = time.perf_counter()
            arms[name](number)
            if number >= 0:
                seconds[name][number] = time.perf_counter() - began
    return seconds


def trained(data: Path, rows: int, folder: Path) -> Run:
    """Train what is served."""
    log = folder / "log.parquet"
    pl.read_parquet(data).head(rows).write_parquet(log)
    settings = {
        "model": {"name": "deepfm", "hidden": [400, 400]},
        "features.min_count": 1,
        "training.epochs": 1,
    }
    config = load_experiment(CRITEO, str(log)).replace({"name": "served", **settings})
    prepared = prepare(config.data, config.features, folder / "prepared")
    return train(config, prepared, folder / "runs")


def with_many_ids(run: Run, served: Path, ids: int, folder: Path) -> Path:
    """Write a folder like `served` whose feature c3 has so many ids, with rows of zeros, and return it."""
    fitted, saved = run.features(), run.checkpoint()
    vocabulary = ExactVocabulary(np.random.default_rng(0).permutation(ids))
    features = Features(
        [replaced(feature, vocabulary) if feature.name == "c3" else feature for feature in fitted.features],
        fitted.configs,
        fitted.text,
        fitted.unsigned,
    )
    plan = plan_of(run.config, features)

    def read(name: str) -> np.ndarray:
        return (
            np.zeros((ids + 2, 16), np.float32) if name == "c3/full" else saved.read(f"table/{name}").numpy()
        )

    def add(partial: Path, counted: ResidentBytes) -> None:
        write_request(features, partial / REQUEST)
        for name in (MODEL, PROGRAM):
            shutil.copyfile(served / name, partial / name)

    return write(folder / "many", fields_of(plan, features), read, "fp32", add=add).folder


def replaced(feature: Any, vocabulary: ExactVocabulary) -> Any:
    """Return a feature with another vocabulary."""
    other = copy.copy(feature)
    other.vocabulary, other.full_codes = vocabulary, len(vocabulary) + 2
    return other


def opening(folder: Path, verify: bool) -> list[float]:
    """Return CPU seconds to import, seconds to open and answer a row, and resident bytes, of a fresh process."""
    code = f"""
import json, resource, time
from pathlib import Path
from recsys.serving import Predictor
used = resource.getrusage(resource.RUSAGE_SELF)
began = time.perf_counter()
predictor = Predictor.open({str(folder)!r}, verify={verify})
predictor.predict({{}})
took = time.perf_counter() - began
status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss counts the process that started this one
(peak,) = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
print(json.dumps([used.ru_utime + used.ru_stime, took, 1024 * peak]))
"""
    told = [
        json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    return np.min(told, axis=0).tolist()


def measure(run: Run, rows: Sequence[dict[str, Any]], folder: Path, rounds: int) -> dict[str, Any]:
    """Return medians and 99th percentiles by arm, in seconds."""
    predictor = Predictor.open(export(run, folder / "served", "fp32").folder)
    eager = Eager(run)
    answers = predictor.predict(rows[:200])
    np.testing.assert_allclose(eager.through_arrow(rows[:200]), answers, atol=2e-6)
    ready = [eager.tensors(row) for row in rows[:200]]
    by_hand = np.concatenate([eager(*tensors) for tensors in ready])
    np.testing.assert_allclose(by_hand, answers, atol=2e-6)
    encoded = [predictor.encode(row) for row in rows[:200]]

    def row(number: int) -> dict[str, Any]:
        return rows[number % 200]

    rival = rechub_program(
        [len(table) for table in eager.tables], ready[0][0].shape[1], eager.tables[0].shape[1], folder
    )
    rivals: dict[str, Callable[[int], Any]] = {}
    if rival is not None:
        arrays = [(dense.numpy(), codes.numpy()) for dense, codes in ready]
        rivals = {
            "Torch-RecHub's ONNX, dict": lambda k: rival(*(t.numpy() for t in eager.tensors(row(k)))),
            "Torch-RecHub's ONNX, arrays": lambda k: rival(*arrays[k % 200]),
        }
    one = take_turns(
        {
            "Predictor.predict": lambda k: predictor.predict(row(k)),
            "of it: encode": lambda k: predictor.encode(row(k)),
            "of it: tables and network": lambda k: predictor.score(encoded[k % 200]),
            "eager, dict": lambda k: eager(*eager.tensors(row(k))),
            "eager, tensors": lambda k: eager(*ready[k % 200]),
            "features.transform + eager": lambda k: eager.through_arrow([row(k)]),
            **rivals,
        },
        rounds,
    )
    thousand = rows[:RANKED]
    items = [{name: row[name] for name in OF_ITEMS} for row in thousand]
    context = {name: value for name, value in rows[0].items() if name not in OF_ITEMS}
    np.testing.assert_allclose(
        predictor.rank(context, items), predictor.predict([{**context, **item} for item in items]), atol=2e-6
    )
    products = eager.products(RANKED)
    many = take_turns(
        {
            "Predictor.rank": lambda _: predictor.rank(context, items),
            "Predictor.predict": lambda _: predictor.predict(thousand),
            "matrix products": lambda _: products(),
            "eager, tensors": lambda _: eager(
                torch.cat([dense for dense, _ in ready * 5]), torch.cat([codes for _, codes in ready * 5])
            ),
            "features.transform + eager": lambda _: eager.through_arrow(thousand),
        },
        max(5, rounds // 20),
    )
    return {
        title: {name: [float(np.median(took)), float(np.quantile(took, 0.99))] for name, took in arms.items()}
        for title, arms in (("one row", one), (f"{RANKED:,} rows", many))
    }


def measure_opening(run: Run, served: Path, ids: int, folder: Path) -> dict[str, list[float]]:
    """Return what `opening` says of the folder, and of one with many ids."""
    many = with_many_ids(run, served, ids, folder)
    return {
        "as it is": opening(served, True),
        f"with {ids:,} ids": opening(many, True),
        f"with {ids:,} ids, checksums not read": opening(many, False),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--ids", type=int, default=10_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = trained(arguments.data, arguments.rows, folder)
        columns = [feature.name for feature in run.features().features]
        rows = pl.read_parquet(folder / "log.parquet").select(columns).head(RANKED).to_dicts()
        result = measure(run, rows, folder, arguments.rounds)
        opened = measure_opening(run, folder / "served", arguments.ids, folder)
    for title in ("one row", f"{RANKED:,} rows"):
        table = Table(title, "median, ms", "99 %, ms", "ratio to Predictor.predict")
        base = result[title]["Predictor.predict"][0]
        for name, (median, most) in result[title].items():
            table.add_row(name, f"{1e3 * median:.3f}", f"{1e3 * most:.3f}", f"{median / base:.2f}")
        Console(width=100).print(table)
    table = Table("a fresh process", "import, CPU s", "open and answer, s", "resident")
    for name, (imported, took, peak) in opened.items():
        table.add_row(name, f"{imported:.2f}", f"{took:.3f}", f"{peak / 1e6:.0f} MB")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
