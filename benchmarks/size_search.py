"""How small tables can get: `recsys compress` against the full table and its rivals at the same bytes, in one run.

python benchmarks/size_search.py criteo80k ml-100k frappe86k generated --data-root DATA [--budget 20%] [--seeds 5]

Every arm has as many validation trials (learning rate, decay, first values; widths and minimum counts where the arm has
them), chosen on validation only, and is trained with the seeds. A loss of 0.002 in AUC is what matters: the verdict is
"not worse" where the whole interval of the paired difference (Bonferroni over arms) is above -0.002, "worse by more" where
it is below, else "undecided".

The generated log says too which ids and fields were worth keeping.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

EFFECT = 0.002
ENOUGH = (20, 50, 100, 200, 500, 1000)  # impressions in training that an informative id is judged from
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETS = {  # what is searched
    "criteo80k": ("criteo/full.yaml", "criteo80k.parquet"),
    "ml-100k": ("movielens/full.yaml", "ml-100k"),
    "frappe86k": ("frappe/full.yaml", "frappe86k.parquet"),
    "generated": ("generated/compress.yaml", None),
}
TRAINING = {"training.table_decay": [0.0, 0.0001, 0.001], "tables.init_bound": [0.001, 0.01, 0.05]}
HASHED = {"features.encoding": "hash", "features.min_count": 1}
RIVALS: dict[
    str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
] = {  # settings, tables, what is searched
    "width x min_count": (
        {},
        {"scheme": "full"},
        {"features.min_count": ["fit", 2, 3, 5, 10, 20], "tables.embedding_dim": [4, 8, 12, 16]},
    ),
    "hash": (HASHED, {"scheme": "hash"}, {"tables.embedding_dim": [4, 8, 16]}),
    "unified": (HASHED, {"scheme": "unified", "chunk_dim": 8}, {"tables.chunk_dim": [4, 8, 16]}),
    "quotient_remainder": (
        {},
        {"scheme": "quotient_remainder", "operation": "product"},
        {
            "features.min_count": [1, 2, 3, 5, 10, 20],
            "tables.operation": ["product", "concat", "sum"],
            "tables.embedding_dim": [8, 16],
        },
    ),
}


def baseline(name: str, root: Path, trials: int) -> Any:
    from recsys.config import load_experiment

    file, data = SETS[name]
    config = load_experiment(CONFIGS / file, None if data is None else str(root / data))
    lr = config.training.table_lr
    space = TRAINING | {"training.table_lr": [lr / 2, lr, 2 * lr]}
    return config.replace(
        {"name": name, "tuning": {"trials": trials, "space": space, "training_seed": 1000}}, where=name
    )


def rival(config: Any, name: str, budget: str) -> Any:
    settings, tables, space = RIVALS[name]
    tables = {"embedding_dim": 16, "init_bound": config.tables.init_bound, **tables, "budget": budget}
    found = config.model_dump(mode="json")["tuning"]["space"]
    return config.replace(
        {
            **settings,
            "name": f"{config.name}-{name.replace(' ', '_')}",
            "tables": tables,
            "tuning.space": found | space,
        },
        where=name,
    )


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, compact, train all arms and judge them."""
    from recsys.comparison.experiments import run_comparison
    from recsys.compression.search import run_compression
    from recsys.compression.supernet import evaluator
    from recsys.config import load_experiment
    from recsys.console import bars, preparing
    from recsys.reports.compression import write_compression
    from recsys.training.loop import Watch
    from recsys_pipelines.preparation.prepare import prepare

    began = time.perf_counter()
    work = arguments.work / name
    roots = work / "runs", work / "prepared"
    config = baseline(name, arguments.data_root, arguments.trials)
    config = config.replace({f"compression.{key}": value for key, value in arguments.compression.items()})
    with bars() as show:
        ready = prepare(config.data, config.features, roots[1], preparing(show))
        found = run_compression(
            config,
            arguments.budget,
            ready,
            roots,
            evaluator,
            seeds=0,
            watch=Watch(progress=lambda what, *rest: show(f"{name}: learner, {what}", *rest)),
            progress=lambda what, done, of: show(f"{name}: {what}", done, of),
        )
        searched = time.perf_counter() - began
        write_compression(found, work / "search.html")
        every_id = config.replace({"name": f"{name}-every-id", "features.min_count": 1})
        arms = [
            every_id,
            *([] if every_id.features == config.features else [config]),
            *(load_experiment(found.compact[search]) for search in ("evolution", "uniform")),
        ]
        arms += [rival(config, other, arguments.budget) for other in arguments.rivals]
        result = run_comparison(
            arms,
            arguments.seeds,
            *roots,
            arguments.jobs,
            lambda what, done, of: show(f"{name}: {what}", done, of),
            effect=EFFECT,
        )
    told = {
        "set": name,
        "search_seconds": searched,
        "seconds": time.perf_counter() - began,
        **found.to_dict(),
        "compared": result.to_dict(),
    }
    show_arms(name, found, result)
    if name == "generated":
        told["truth"] = truth_of(config, found, ready)
    return told


def show_arms(name: str, found: Any, result: Any) -> None:
    console = Console(width=150)
    evolution = found.outcomes["evolution"]
    console.print(
        f"{name}: full table {found.full_bytes:,} bytes, budget {found.budget}; "
        f"validation AUC, all kept {found.full:.5f}, "
        + ", ".join(
            f"{search} {outcome.best.quality:.5f} in {outcome.evaluations}"
            for search, outcome in found.outcomes.items()
        )
        + f"; evolution found its best at evaluation {evolution.history[-1][0]}"
    )
    table = Table("arm", "bytes", "AUC", "difference", "interval", "verdict", "against -0.002", title=name)
    by_arm = {d.arm: (d, power) for d, power in zip(result.judged.auc, result.judged.power, strict=True)}
    for arm in result.arms:
        auc = np.mean([run_.metrics["test"]["auc"] for run_ in arm.runs])
        row = [arm.name, f"{arm.bytes['total'] / found.full_bytes:.1%}", f"{auc:.4f}"]
        if arm.name in by_arm:
            d, power = by_arm[arm.name]
            against = "not worse" if power.not_worse else "worse by more" if power.worse else "undecided"
            row += [f"{d.estimate:+.4f}", "{:+.4f} to {:+.4f}".format(*power.interval), d.verdict, against]
        table.add_row(*row)
    for left, why in result.left_out.items():
        table.add_row(left, "none fits", "", "", "", why[:60])
    console.print(table)


def truth_of(config: Any, found: Any, ready: Any) -> dict[str, Any]:
    """Of the ids that carry signal and of those that carry none, the share that evolution keeps; by field its rank."""
    from recsys_cython_ext.vocabulary import FIRST_CODE
    from recsys_pipelines.batches.loader import Rows
    from recsys_pipelines.sources.generated import truth

    rows = Rows.load(ready.path, "train")
    keep = found.space.keep(found.best)
    facts = truth(config.data.generator)
    ranks = {field.name: field.rank if field.signal else "none" for field in config.data.generator.fields}
    table = Table("field", "rank", "width", "useful ids kept", "useless ids dropped", title="the truth")
    useful_all, kept_all, count_all = [], [], []
    for feature, width in zip(found.space.features, found.best.widths, strict=True):
        fact = facts[feature]
        useful_of = dict(zip(fact.raw_id.tolist(), fact.useful.tolist(), strict=True))
        ids = next(f for f in ready.features().categorical if f.name == feature).ids
        useful = np.array([useful_of[i] for i in ids.tolist()], np.bool_)
        kept = keep[feature][FIRST_CODE:]
        counts = np.bincount(rows.ids_of(feature), minlength=len(keep[feature]))[FIRST_CODE:]
        useful_all, kept_all, count_all = [*useful_all, useful], [*kept_all, kept], [*count_all, counts]
        cells = [
            f"{kept[mask].mean():.0%} of {mask.sum():,}" if mask.any() else "-" for mask in (useful, ~useful)
        ]
        dropped = f"{(~kept[~useful]).mean():.1%} of {(~useful).sum():,}" if (~useful).any() else "-"
        table.add_row(feature, str(ranks[feature]), str(width), cells[0], dropped)
    useful, kept, counts = (np.concatenate(values) for values in (useful_all, kept_all, count_all))
    told: dict[str, Any] = {"useless_dropped": float((~kept[~useful]).mean()), "useful_kept": {}}
    for enough in ENOUGH:
        mask = useful & (counts >= enough)
        told["useful_kept"][enough] = float(kept[mask].mean())
    console = Console(width=150)
    console.print(table)
    console.print(
        f"useless ids dropped: {told['useless_dropped']:.1%}; informative ids kept, of those with so many impressions: "
        + ", ".join(f">= {n}: {share:.1%}" for n, share in told["useful_kept"].items())
    )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", choices=list(SETS))
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of the real sets")
    parser.add_argument("--budget", default="20%")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS))
    parser.add_argument(
        "--compression", type=json.loads, default={}, help="settings of `compression`, as JSON"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "recsys-size-search")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    told = {name: run(name, arguments) for name in arguments.sets}
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), **told}, indent=1))


if __name__ == "__main__":
    main()
