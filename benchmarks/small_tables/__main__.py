"""Small tables that learn from teachers, against everything that has the same bytes, trials and students.

python benchmarks/small_tables frappe86k ml-100k --data-root DATA --work DIR [--budgets 10%,5%] [--arms coded+teacher,hash]

Settings are chosen by eight trials of each arm on the validation rows of the first split, and trained on every split:
two students each of five random splits, with teachers and codes of each split. Small arms have rows of `--precision`,
and a fingerprint vocabulary where they need one. It can be stopped and goes on; `--judge` prints what there is.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from arms import CODED, EVOLUTION, FULL, RANDOM, RIVALS, TWO_CHUNKS, coded, evolved, experiment
from judge import Predicted
from posttraining import KINDS, cluster_trained
from rich.console import Console
from rich.table import Table
from runs import ONE_TEACHER, SMALL_TEACHERS, SMOOTHING, TEACHERS, Split, train_arm

from recsys.comparison.pool import training_pool
from recsys.config import ExperimentConfig, load_experiment
from recsys.evaluation.arms.multiplicity import holm
from recsys.tuning.trials import NothingFits

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SETS: dict[
    str, tuple[str, str | None, tuple[int, ...], int]
] = {  # experiment, data, seeds of splits, students of each
    "frappe86k": ("frappe/full.yaml", "frappe86k.parquet", (11, 12, 13, 14, 15), 2),
    "ml-100k": ("movielens/full.yaml", "ml-100k", (11, 12, 13, 14, 15), 2),
    "criteo80k": ("criteo/full_every_id.yaml", "criteo80k.parquet", (0,), 5),
    "generated": ("generated/compress.yaml", None, (0,), 5),
}
LEVEL = 0.95


def base_of(name: str, root: Path, seed: int, trials: int) -> ExperimentConfig:
    """Return the experiment of full tables on one split, with every arm's means."""
    file, data, splits, _ = SETS[name]
    config = load_experiment(CONFIGS / file, None if data is None else str(root / data))
    lr = config.training.table_lr
    space = {
        "training.table_lr": [lr, lr / 2, 2 * lr],
        "training.table_decay": [0.0, 0.0001, 0.001],
        "tables.init_bound": [0.01, 0.001, 0.05],
    }
    settings: dict[str, Any] = {
        "name": name,
        "tuning": {"trials": trials, "space": space, "training_seed": 1000},
    }
    if len(splits) > 1:
        settings["data.split.seed"] = seed
    config = config.replace(settings, where=name)
    return config.replace({"training.epochs": 2 * config.training.epochs})


def names_of(budgets: list[str], wanted: list[str] | None) -> list[tuple[str, str | None, str]]:
    """Return arms, budgets and who teaches, those that the claims need first."""
    plan: list[tuple[str, str | None, str]] = [("every-id", None, ""), ("full", None, "")]
    plan += [("every-id", None, TEACHERS)] + [(CODED, budget, TEACHERS) for budget in budgets]
    plan += [(rival, budget, "") for budget in budgets for rival in RIVALS]
    plan += [("unified", budget, TEACHERS) for budget in budgets]
    plan += [(EVOLUTION, budget, "") for budget in budgets]
    plan += [(TWO_CHUNKS, budget, TEACHERS) for budget in budgets]
    plan += [(kind, budget, "") for budget in budgets for kind in KINDS]
    plan += [(RANDOM, budget, TEACHERS) for budget in budgets] + [(CODED, budget, "") for budget in budgets]
    plan += [(rival, budget, TEACHERS) for budget in budgets for rival in RIVALS if rival != "unified"]
    plan += [(EVOLUTION, budget, TEACHERS) for budget in budgets]
    first = budgets[0]  # controls
    plan += [(CODED, first, ONE_TEACHER), ("unified", first, SMALL_TEACHERS), (CODED, first, SMALL_TEACHERS)]
    plan += [("every-id", None, SMOOTHING), ("unified", first, SMOOTHING)]
    return [item for item in plan if wanted is None or title_of(item[0], None, item[2]) in wanted]


def arm_of(name: str, budget: str | None, by: str, split: Split, precision: str) -> ExperimentConfig:
    """Return an arm's experiment on a split."""
    title = title_of(name, budget, by).replace("+", "-")
    teacher = split.teacher(by, budget) if by else None
    if name in FULL:
        return experiment(split.base, FULL[name], title, None, "fp32", teacher)
    assert budget is not None
    if name in (CODED, TWO_CHUNKS):
        chunks = 1 if name == CODED else 2
        folders = [str(codes.folder) for codes in split.codes(budget, precision, chunks)]
        return coded(split.base, title, budget, precision, folders, teacher)
    if name == EVOLUTION:
        return evolved(split.base, split.evolution(budget, precision), title, teacher)
    if name == RANDOM:
        return coded(split.base, title, budget, precision, split.random_codes(budget, precision), teacher)
    return experiment(split.base, RIVALS[name], title, budget, precision, teacher)


def title_of(name: str, budget: str | None, by: str) -> str:
    """Return what an arm is called."""
    return name + (f"+{by}" if by else "") + (f"@{budget}" if budget else "")


def train(name: str, arguments: argparse.Namespace) -> None:
    """Train what is missing of a set, arm by arm."""
    folder = arguments.work / name
    bases = [base_of(name, arguments.data_root, seed, arguments.trials) for seed in SETS[name][2]]
    with training_pool(bases, arguments.jobs) as pool:
        splits = [Split(base, folder, pool) for base in bases]
        for arm, budget, by in names_of(arguments.budgets, arguments.arms):
            title, began = title_of(arm, budget, by), time.perf_counter()
            file = folder / "arms" / f"{title}.json"
            if file.exists():
                continue
            if arm in KINDS:
                assert budget is not None
                told = cluster_trained(arm, budget, splits, SETS[name][3], file)
                print(f"{name} {title}: AUC {sum(told['auc']) / len(told['auc']):.4f}", flush=True)
                continue
            configs = [arm_of(arm, budget, by, split, arguments.precision) for split in splits]
            try:
                told = train_arm(title, configs, splits, SETS[name][3], pool, file)
            except NothingFits as error:
                print(f"{name} {title}: left out: {error}", flush=True)
                continue
            auc = sum(told["auc"]) / len(told["auc"])
            print(f"{name} {title}: AUC {auc:.4f}, {time.perf_counter() - began:.0f} s", flush=True)


def show(name: str, work: Path) -> dict[str, Any]:
    """Judge the arms that are there, and print and return what is found."""
    told = {file.stem: json.loads(file.read_text()) for file in sorted((work / name / "arms").glob("*.json"))}
    files = {
        title: [[Path(run) / "predictions.parquet" for run in runs] for runs in arm["runs"]]
        for title, arm in told.items()
    }
    predicted = Predicted(files)
    reference = max(
        ("every-id", "full"), key=lambda title: told[title]["validation"] if title in told else -1e9
    )
    taught = f"every-id+{TEACHERS}"
    small = [title for title in told if told[title]["budget"]]
    claims = [title for title in small if title.startswith(f"{CODED}+{TEACHERS}@")]
    rivals = [
        (f"{CODED}+{TEACHERS}@{told[title]['budget']}", title) for title in small if title not in claims
    ]
    rivals = [(claim, title) for claim, title in rivals if claim in claims]
    against = [predicted.difference(claim, title) for claim, title in rivals]
    adjusted = dict(zip([title for _, title in rivals], holm([d.p_value for d in against]), strict=True))
    by_rival = {d.other: d for d in against}
    references = [title for title in (reference, taught) if title in told]
    level = 1 - (1 - LEVEL) / max(1, len(claims) * len(references))
    rows = []
    for title, arm in told.items():
        differences = {other: predicted.difference(title, other) for other in references if other != title}
        ahead = by_rival.get(title)
        rows.append(
            {
                "arm": title,
                "bytes": sum(b["total"] for b in arm["bytes"]) / len(arm["bytes"]),
                "full_table": arm["bytes"][0]["full_table"],
                "serving": sum(b["serving"] for b in arm["bytes"]) / len(arm["bytes"]),
                "auc": float(predicted.auc(title)[:, :, 0].mean()),
                "by_split": predicted.auc(title)[:, :, 0].mean(axis=1).tolist(),
                "against": {
                    other: {"estimate": d.estimate, "interval": d.interval(level), "by_split": d.by_split}
                    for other, d in differences.items()
                },
                "coded_ahead": None
                if ahead is None
                else {"estimate": ahead.estimate, "holm": adjusted[title]},
                "seconds": arm["seconds"],
                "settings": arm["settings"],
            }
        )
    print_table(name, rows, references, level)
    return {"set": name, "references": references, "level": level, "arms": rows}


def print_table(name: str, rows: list[dict[str, Any]], references: list[str], level: float) -> None:
    """Print the arms of a set, smallest last."""
    table = Table(
        "arm",
        "bytes",
        "of full",
        "AUC",
        *(f"loss to {r}, at most" for r in references),
        "coded ahead",
        "Holm p",
        title=f"{name}, intervals {level:.2%}",
    )
    for row in sorted(rows, key=lambda row: (-round(row["bytes"] / row["full_table"], 2), -row["auc"])):
        losses = [
            f"{-row['against'][r]['interval'][0]:+.4f}" if r in row["against"] else "–" for r in references
        ]
        ahead = row["coded_ahead"]
        cells = ("–", "–") if ahead is None else (f"{ahead['estimate']:+.4f}", f"{ahead['holm']:.4f}")
        table.add_row(
            row["arm"],
            f"{row['bytes']:,.0f}",
            f"{row['bytes'] / row['full_table']:.1%}",
            f"{row['auc']:.4f}",
            *losses,
            *cells,
        )
    Console(width=150).print(table)


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
        results.append(show(name, arguments.work))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
