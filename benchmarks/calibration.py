"""Are 95 % intervals right in 95 % of comparisons, and do 5 % tests find a difference in 5 % where there is none?

python benchmarks/calibration.py [--sims 2000] [--worlds NAME ...] [--replicates 200] [--json FILE] [--folder DIR]
python benchmarks/calibration.py --few [--sims 2000]          # few positives, few users: see calibration_few.py

Every simulated comparison has a known true difference, and is judged by the code of `recsys compare`:

- generated: users of uneven activity, labels and scores that depend on the user, scores with ties. Each of two arms sees
  a feature of its own; swapping the features changes nothing, so both have the same expected metrics, yet different luck
  with rows and, in each seed, with training.
- real runs: two configurations that differ in one of two exchangeable fields, each trained with --runs seeds by the
  engine. Their test users, all of whom are drawn from with replacement, are the population, so the truth is known: the
  mean of a metric over all runs. "A/A" compares 5 with 5 other runs of one configuration; "A/B" draws 5 runs of each,
  with replacement, and wants the interval to hold the known difference.

Rivals on the same data: bootstrap of rows, DeLong (independent rows), Welch's test on the AUCs of the seeds (fixed rows).
Finished comparisons are kept in --folder, and the command goes on from there. Intervals of 2,000 around 5 % reach from
4.1 to 6.0 %.
"""

import argparse
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_ind

from recsys.config import ExperimentConfig, parse_experiment
from recsys.evaluation.arms import best, bootstrap
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.delong import from_placements, placements
from recsys.evaluation.arms.pairing import pair

METRICS = ("auc", "gauc", "logloss", "ne", "calibration")
LOW, HIGH = 0.036, 0.064  # the rates that are wanted
ROW_METRICS = ("auc", "logloss")  # of the bootstrap of rows
SAMPLED_USERS = 1000
LOG = {
    "rows": 300_000,
    "history": 0,
    "numeric": 0,
    "click_rate": 0.1,
    "fields": [
        {"name": "user_id", "num_ids": 30_000, "zipf": 0.5, "signal": 2.0},
        {"name": "item_id", "num_ids": 1000, "zipf": 1.0, "signal": 1.5},
        {"name": "left", "num_ids": 200, "zipf": 0.5, "signal": 1.5},
        {"name": "right", "num_ids": 200, "zipf": 0.5, "signal": 1.5},
    ],
}


@dataclass(frozen=True)
class Sample:
    """Predictions of two arms [S, n], labels [n], users [n]; the true difference, second arm minus first, by metric."""

    arms: dict[str, np.ndarray]
    labels: np.ndarray
    users: np.ndarray
    truth: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))
    runs: list[int] = field(
        default_factory=list
    )  # numbers of those drawn, the second pool's after the first's


Sampler = Callable[[np.random.Generator], Sample]


@dataclass(frozen=True)
class Generated:
    """A world: bias of the true logit, which sets the rate of labels, users, and seeds of each arm."""

    bias: float
    users: int
    seeds: int

    def sample(self, rng: np.random.Generator) -> Sample:
        """Draw a test set and all that the arms' training depends on."""
        rows = 1 + rng.poisson(5 * rng.lognormal(-0.5, 1.0, self.users))
        user = np.repeat(np.arange(self.users), rows)
        seen = 0.7 * rng.normal(size=(2, self.users))[:, user] + 0.7 * rng.normal(size=(2, user.size))
        item = rng.integers(0, 50, user.size)
        logit = self.bias + 0.8 * seen.sum(axis=0) + 0.7 * rng.normal(size=self.users)[user]
        labels = rng.random(user.size) < 1 / (1 + np.exp(-logit))
        arms = {}
        for name, feature in zip("ab", seen, strict=True):
            learnt = 0.25 * rng.normal(size=(self.seeds, self.users))[:, user]
            if self.seeds > 1:  # one seed's interval is of that very model, so its training has no luck
                learnt += 0.25 * rng.normal(size=(self.seeds, 50))[:, item]
                learnt += 0.05 * rng.normal(size=(self.seeds, 1))
            scores = np.round(self.bias + 0.5 + 0.8 * feature + learnt, 1)
            arms[name] = 1 / (1 + np.exp(-scores))
        return Sample(arms, labels, user)


@dataclass(frozen=True)
class Pool:
    """Runs of a configuration that differ in their seed: predictions [runs, n] and metrics on all n test rows."""

    predictions: np.ndarray
    labels: np.ndarray
    starts: np.ndarray  # [U + 1], of the rows of each user
    metrics: dict[str, np.ndarray]

    @classmethod
    def trained(cls, config: ExperimentConfig, runs: int, folder: Path) -> "Pool":
        """Train what is missing in the folder."""
        from recsys.training.train import train
        from recsys_pipelines.preparation.prepare import prepare

        prepared = prepare(config.data, config.features, folder / "prepared")
        done = [
            train(config.replace({"training.seed": seed}), prepared, folder / "runs") for seed in range(runs)
        ]
        first = done[0].predictions()
        codes = first["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        return cls(
            np.stack([run.predictions()["prediction"].to_numpy()[order] for run in done]),
            first["label"].to_numpy()[order],
            np.r_[0, np.cumsum(np.bincount(codes))],
            {name: np.array([run.metrics["test"][name] for run in done]) for name in METRICS},
        )


@dataclass(frozen=True)
class Trained:
    """A world of real runs; `other` is the second arm's pool, or the first's again for A/A."""

    pool: Pool
    other: Pool
    seeds: int = 5

    def sample(self, rng: np.random.Generator) -> Sample:
        """Draw runs, and users with replacement; pair the predictions as `recsys compare` does."""
        count = len(self.pool.predictions)
        same = self.pool is self.other
        runs = rng.choice(count, 2 * self.seeds, replace=not same).reshape(2, self.seeds)
        drawn = rng.integers(0, self.pool.starts.size - 1, SAMPLED_USERS)
        sizes = np.diff(self.pool.starts)[drawn]
        rows = np.concatenate([np.arange(self.pool.starts[u], self.pool.starts[u + 1]) for u in drawn])
        users = np.repeat(np.arange(SAMPLED_USERS), sizes)
        arms = {
            name: [_table(pool.predictions[run, rows], pool.labels[rows], users) for run in chosen]
            for name, pool, chosen in zip("ab", (self.pool, self.other), runs, strict=True)
        }
        paired = pair(arms)
        first, second = ({m: pool.metrics[m].mean() for m in METRICS} for pool in (self.pool, self.other))
        truth = {m: float(second[m] - first[m]) for m in METRICS}
        truth["calibration"] = float(abs(second["calibration"] - 1) - abs(first["calibration"] - 1))
        assert paired.clusters is not None
        numbers = runs + np.array([[0], [0 if same else count]])
        return Sample(paired.arms, paired.labels, paired.clusters, truth, numbers.ravel().tolist())


def _table(predictions: np.ndarray, labels: np.ndarray, users: np.ndarray) -> pa.Table:
    return pa.table(
        {"row_id": np.arange(labels.size), "label": labels, "prediction": predictions, "user_id": users}
    )


GENERATED = {
    f"{rate}, {seeds} seed{'s' if seeds > 1 else ''}": Generated(bias, users, seeds)
    for rate, bias, users in (("20 %", -1.815, 600), ("3 %", -4.25, 600), ("0.3 %", -6.67, 2000))
    for seeds in (1, 5)
}
REAL = {"real runs, A/A": ("left", "left"), "real runs, A/B": ("left", "right")}


def configuration(seen: str) -> ExperimentConfig:
    """Return the settings of a factorisation machine that sees one of the exchangeable fields."""
    return parse_experiment(
        {
            "name": seen,
            "data": {
                "source": "generated",
                "generator": LOG,
                "user": "user_id",
                "split": {"by": "random", "train": 0.15, "validation": 0.05, "test": 0.8},
            },
            "features": [{"kind": "categorical", "names": ["user_id", "item_id", seen]}],
            "tables": {"scheme": "full", "embedding_dim": 4},
            "model": {"name": "fm"},
            "training": {"batch_size": 1024, "epochs": 1, "evaluations_per_epoch": 1, "table_lr": 0.1},
        },
        seen,
    )


def judged(sample: Sample, replicates: int, seed: int) -> dict[str, Any]:
    """Intervals of every method, p-values and parts of the variance, by metric; and the truth.

    The bootstrap of rows takes long and misses often: it is done for every fourth seed, of arms with one seed.
    """
    result = compare(sample.arms, sample.labels, sample.users, replicates=replicates, seed=seed)
    found = {}
    for d in result.differences:
        parts = (d.estimate, d.row_variance, d.row_df, d.seed_variance, d.seed_df)
        found[d.metric] = {
            "truth": sample.truth[d.metric],
            "compare": d.interval,
            "bca": d.bca_interval,
            "p": d.p_value,
            "parts": parts,
        }
    if len(sample.arms["a"]) == 1 and seed % 4 == 0:
        rows = compare(sample.arms, sample.labels, None, None, ROW_METRICS, replicates, seed)
        for d in rows.differences:
            found[d.metric]["rows"] = d.interval
    found["auc"] |= _rivals(sample)
    return found


def _rivals(sample: Sample) -> dict[str, Any]:
    """Intervals of the difference in AUC that take rows for independent, or for fixed."""
    positive = sample.labels == 1
    placed = [np.stack([placements(positive, p) for p in sample.arms[name]]) for name in "ab"]
    test = from_placements(positive, np.stack([rows.mean(axis=0) for rows in placed[::-1]])).test(0, 1)
    first, second = (rows[:, positive].mean(axis=1) for rows in placed)
    if first.size == 1:
        return {"delong": test.interval}
    welch = ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    return {"delong": test.interval, "seeds": (float(welch.low), float(welch.high))}


def simulate(
    worlds: dict[str, Sampler], sims: int, replicates: int, kept: Path | None = None
) -> list[dict[str, Any]]:
    """Return records of `sims` comparisons in each world; a record is a function of its world and number.

    Those in the file `kept`, one a line, are not made again; new ones are added to it.
    """
    records = []
    if kept is not None and kept.exists():
        lines = kept.read_text().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # killed while it wrote
            kept.write_text("".join(lines[:-1]))
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        records = [r for r in records if r["world"] in worlds and r["number"] < sims]
    done = {(record["world"], record["number"]) for record in records}
    with open(os.devnull if kept is None else kept, "a", buffering=1) as file:
        for number in range(sims):
            for name, sample in worlds.items():
                if (name, number) in done:
                    continue
                drawn = sample(np.random.default_rng([number, zlib.crc32(name.encode())]))
                found = judged(drawn, replicates, number)
                records.append({"world": name, "number": number, "runs": drawn.runs, "found": found})
                file.write(json.dumps(records[-1]) + "\n")
    return records


def summary(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each world and metric, the share of comparisons in which each method's interval misses the truth.

    `verdict` is the share with p < 0.05, where the truth is 0.
    """
    rows = []
    for world in dict.fromkeys(record["world"] for record in records):
        for metric in METRICS:
            mine = [r for r in records if r["world"] == world and metric in r["found"]]
            found = [record["found"][metric] for record in mine]
            if not found:
                continue
            null = all(f["truth"] == 0 for f in found)
            rows.append(
                {
                    "world": world,
                    "metric": metric,
                    "sims": len(found),
                    **{name: _missed(found, name) for name in ("compare", "bca", "rows", "delong", "seeds")},
                    "verdict": float(np.mean([f["p"] < 0.05 for f in found])) if null else None,
                    "widening": _widening(mine, metric),
                }
            )
    return rows


def _missed(found: Sequence[dict[str, Any]], name: str) -> float | None:
    known = [(f[name], f["truth"]) for f in found if f.get(name) is not None]
    return float(np.mean([not low <= truth <= high for (low, high), truth in known])) if known else None


def _widening(records: Sequence[dict[str, Any]], metric: str) -> float | None:
    """How much larger the Monte Carlo error is than that of independent simulations, because they share runs.

    With N runs, m of them in a comparison, and ζ the variance over runs of P(miss | the run is in), the share of misses
    has about the variance p (1 - p) / sims + m² ζ / N (Hoeffding 1948).
    """
    if not records[0]["runs"]:
        return None
    missed = np.array([_missed([r["found"][metric]], "compare") for r in records])
    runs = np.array([r["runs"] for r in records])
    count = np.bincount(runs.ravel())
    hits = np.bincount(runs.ravel(), np.repeat(missed, runs.shape[1]))
    p = missed.mean()
    zeta = np.mean((hits / count - p) ** 2 - p * (1 - p) / count)
    own = p * (1 - p) / len(records)
    return float(np.sqrt(1 + max(zeta, 0) * runs.shape[1] ** 2 / count.size / own))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rates in per cent, with one standard error of Monte Carlo; what is outside of 3.6 to 6.4 % is marked."""
    out = Table(title="Share of comparisons whose 95 % interval misses the truth; wanted: 3.6 to 6.4 %")
    for name in (
        "world",
        "metric",
        "compare",
        "±",
        "verdict",
        "BCa",
        "row bootstrap",
        "DeLong",
        "t of seeds",
    ):
        out.add_column(name, justify="left" if name in ("world", "metric") else "right")
    for row in rows:
        p = row["compare"]
        error = np.sqrt(p * (1 - p) / row["sims"]) * (row["widening"] or 1)
        mark = "" if LOW <= p <= HIGH else " !"
        others = (_percent(row[name]) for name in ("verdict", "bca", "rows", "delong", "seeds"))
        out.add_row(row["world"], row["metric"], f"{100 * p:.1f}{mark}", f"{100 * error:.1f}", *others)
    return out


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _few(folder: Path, sims: int, replicates: int, json_file: Path | None) -> None:
    """Simulate comparisons with little behind them, in one thread: their blocks are too small for more."""
    import calibration_few  # beside this file

    bootstrap.MOST_THREADS = 1
    found = calibration_few.run(folder, sims, replicates)
    for one in calibration_few.tables(found):
        Console(width=130).print(one)
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sims", type=int, default=2000, help="comparisons in each world")
    parser.add_argument("--worlds", nargs="+", choices=[*GENERATED, *REAL], default=[*GENERATED, *REAL])
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--runs", type=int, default=120, help="trained runs of each configuration")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--few", action="store_true", help="worlds of few positives and few users instead")
    options = parser.parse_args()
    best.DRAWS = 2**6  # of who is best, which is not looked at here and takes half of the time
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.few:
        return _few(options.folder, options.sims, options.replicates, options.json)
    worlds: dict[str, Sampler] = {
        name: world.sample for name, world in GENERATED.items() if name in options.worlds
    }
    chosen = [name for name in REAL if name in options.worlds]
    pools = {
        seen: Pool.trained(configuration(seen), options.runs, options.folder)
        for seen in dict.fromkeys(seen for name in chosen for seen in REAL[name])
    }
    worlds |= {name: Trained(pools[REAL[name][0]], pools[REAL[name][1]]).sample for name in chosen}
    began = time.perf_counter()
    records = simulate(worlds, options.sims, options.replicates, options.folder / "comparisons.jsonl")
    rows = summary(records)
    Console(width=130).print(table(rows))
    print(f"{time.perf_counter() - began:.0f} s for what was not kept in {options.folder}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
