"""Small tables that learn from teachers, against everything that has the same bytes, trials and students.

python benchmarks/small_tables frappe86k ml-100k --data-root DATA --work DIR [--budgets 10%,5%] [--arms coded+teacher,hash]

Settings are chosen by eight trials of each arm on the validation rows of the first split, and trained on every split:
two students each of five random splits, with teachers and codes of each split. Small arms have rows of `--precision`,
and a fingerprint vocabulary where they need one. It can be stopped and goes on; `--judge` prints what there is.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import (
    CLUSTERED,
    CODED,
    CONTROLS,
    EVOLUTION,
    FULL,
    RANDOM,
    REFERENCES,
    RIVALS,
    TWO_CHUNKS,
    coded,
    evolved,
    experiment,
)
from posttraining import KINDS, cluster_trained
from runs import ONE_TEACHER, OUT_OF_FOLD, SMALL_TEACHERS, SMOOTHING, TEACHERS, Split, train_arm
from verdict import verdict_of

from recsys.comparison.pool import training_pool
from recsys.config import ExperimentConfig, load_experiment
from recsys.tuning.trials import NothingFits

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class LogSet:
    """A log and how it is divided: `students` of each of its splits; `data` is a file below `--data-root`."""

    experiment: str
    data: str | None
    split_seeds: tuple[int, ...] = (0,)
    students: int = 5
    settings: dict[str, Any] = field(default_factory=dict)


RANDOM_SPLITS = (11, 12, 13, 14, 15)
BY_TIME = {"by": "time", "train": 0.8, "validation": 0.1, "test": 0.1}
SETS = {
    "frappe86k": LogSet("frappe/full.yaml", "frappe86k.parquet", RANDOM_SPLITS, 2),
    "ml-100k": LogSet("movielens/full.yaml", "ml-100k", RANDOM_SPLITS, 2),
    "ml-100k-by-time": LogSet(
        "movielens/full.yaml", "ml-100k", (0,), 10, {"data.time": "timestamp", "data.split": BY_TIME}
    ),
    "criteo80k": LogSet("criteo/full_every_id.yaml", "criteo80k.parquet"),
    "generated": LogSet("generated/compress.yaml", None),
}


def base_of(name: str, root: Path, seed: int, trials: int) -> ExperimentConfig:
    """Return the experiment of full tables on one split, with every arm's means."""
    log = SETS[name]
    config = load_experiment(CONFIGS / log.experiment, None if log.data is None else str(root / log.data))
    lr = config.training.table_lr
    space = {
        "training.table_lr": [lr, lr / 2, 2 * lr],
        "training.table_decay": [0.0, 0.0001, 0.001],
        "tables.init_bound": [0.01, 0.001, 0.05],
    }
    settings: dict[str, Any] = {
        "name": name,
        "tuning": {"trials": trials, "space": space, "training_seed": 1000},
    } | log.settings
    if len(log.split_seeds) > 1:
        settings["data.split.seed"] = seed
    config = config.replace(settings, where=name)
    return config.replace({"training.epochs": 2 * config.training.epochs})


def names_of(budgets: list[str], wanted: list[str] | None) -> list[tuple[str, str | None, str]]:
    """Return arms, budgets and who teaches, those that the claims need first."""
    plan: list[tuple[str, str | None, str]] = [(name, None, "") for name in REFERENCES]
    plan += [("every-id", None, TEACHERS)] + [(CODED, budget, TEACHERS) for budget in budgets]
    plan += [(rival, budget, "") for budget in budgets for rival in RIVALS]
    plan += [("unified", budget, TEACHERS) for budget in budgets]
    plan += [(kind, budget, "") for budget in budgets for kind in KINDS]
    plan += [(RANDOM, budget, TEACHERS) for budget in budgets] + [(CODED, budget, "") for budget in budgets]
    plan += [(EVOLUTION, budget, "") for budget in budgets]
    plan += [(rival, budget, TEACHERS) for budget in budgets for rival in RIVALS if rival != "unified"]
    plan += [(EVOLUTION, budget, TEACHERS) for budget in budgets]
    plan += [(TWO_CHUNKS, budget, TEACHERS) for budget in budgets]
    plan += [(CLUSTERED, budget, TEACHERS) for budget in budgets]
    first = budgets[0]  # of the controls
    plan += [(CODED, first, by) for by in (ONE_TEACHER, SMALL_TEACHERS, OUT_OF_FOLD)]
    plan += [("unified", first, SMALL_TEACHERS)]
    plan += [("every-id", None, SMOOTHING), ("unified", first, SMOOTHING), (CODED, first, SMOOTHING)]
    plan += [
        ("every-id_longer", None, ""),
        ("unified_longer", first, ""),
        ("every-id_fingerprints", None, ""),
    ]
    return [item for item in plan if wanted is None or title_of(item[0], None, item[2]) in wanted]


def arm_of(name: str, budget: str | None, by: str, split: Split, precision: str) -> ExperimentConfig:
    """Return an arm's experiment on a split."""
    title = title_of(name, budget, by).replace("+", "-")
    teacher = split.teacher(by, budget) if by else None
    if name in FULL:
        return experiment(split.base, FULL[name], title, None, "fp32", teacher)
    assert budget is not None
    if name == EVOLUTION:
        return evolved(split.base, split.evolution(budget, precision), title, teacher)
    if name == CLUSTERED:
        folder, starts = split.clustered(budget, precision, 1)
        arm = coded(split.base, title, budget, precision, [folder], teacher)
        return arm.replace({"training.start": starts[0]})
    if name in (CODED, TWO_CHUNKS, RANDOM):
        folders = split.code_folders(name, budget, precision)
        return coded(split.base, title, budget, precision, folders, teacher)
    return experiment(split.base, (RIVALS | CONTROLS)[name], title, budget, precision, teacher)


def title_of(name: str, budget: str | None, by: str) -> str:
    """Return what an arm is called."""
    return name + (f"+{by}" if by else "") + (f"@{budget}" if budget else "")


def train(name: str, arguments: argparse.Namespace) -> None:
    """Train what is missing of a set, arm by arm."""
    folder = arguments.work / name
    seeds, students = SETS[name].split_seeds, SETS[name].students
    bases = [base_of(name, arguments.data_root, seed, arguments.trials) for seed in seeds]
    with training_pool(bases, arguments.jobs) as pool:
        splits = [Split(base, folder, pool) for base in bases]
        for arm, budget, by in names_of(arguments.budgets, arguments.arms):
            title, began = title_of(arm, budget, by), time.perf_counter()
            file = folder / "arms" / f"{title}.json"
            if file.exists():
                continue
            if arm in KINDS:
                assert budget is not None
                told = cluster_trained(arm, budget, splits, students, file)
                print(f"{name} {title}: AUC {sum(told['auc']) / len(told['auc']):.4f}", flush=True)
                continue
            configs = [arm_of(arm, budget, by, split, arguments.precision) for split in splits]
            try:
                starts = None
                if arm == CLUSTERED:
                    assert budget is not None
                    precision = arguments.precision
                    starts = [split.clustered(budget, precision, students)[1] for split in splits]
                told = train_arm(title, configs, splits, students, pool, file, budget, starts)
            except NothingFits as error:
                print(f"{name} {title}: left out: {error}", flush=True)
                continue
            auc = sum(told["auc"]) / len(told["auc"])
            print(f"{name} {title}: AUC {auc:.4f}, {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of everything that is kept")
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=["10%", "5%", "20%", "3%"])
    parser.add_argument(
        "--arms", type=lambda text: text.split(","), help="only these, such as coded+teacher,unified"
    )
    parser.add_argument("--precision", default="fp16", choices=("fp32", "fp16"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--judge", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    arguments = parser.parse_args()
    results = []
    for name in arguments.sets:
        if not arguments.judge:
            train(name, arguments)
        results.append(verdict_of(name, arguments.work))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
