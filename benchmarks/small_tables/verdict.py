"""What the arms of a set come to: intervals to the references, p-values of the rivals after Holm, and slices."""

import json
from pathlib import Path
from typing import Any

from arms import CLUSTERED, CODED, REFERENCES
from judge import Predicted
from posttraining import ensemble_auc
from rich.console import Console
from rich.table import Table
from runs import TEACHERS
from served import of_arms
from slices import sliced

from recsys.evaluation.arms.multiplicity import holm

LEVEL = 0.95
CLAIM = f"{CODED}+{TEACHERS}"
CANDIDATES = [
    f"{name}+{TEACHERS}" for name in (CODED, CLUSTERED, "unified")
]  # among which validation chooses
SLICED = ("every-id", f"every-id+{TEACHERS}", "unified", f"unified+{TEACHERS}", "width_x_min_count")


def verdict_of(name: str, work: Path) -> dict[str, Any]:
    """Judge the arms of a set that are there, and print and return what is found."""
    folder = work / name
    told = {file.stem: json.loads(file.read_text()) for file in sorted((folder / "arms").glob("*.json"))}
    predicted = Predicted({title: _files(arm) for title, arm in told.items()})
    reference = max(
        (title for title in REFERENCES if title in told), key=lambda title: told[title]["validation"]
    )
    references = [title for title in (reference, f"{reference}+{TEACHERS}") if title in told]
    small = [title for title, arm in told.items() if arm["budget"]]
    claims = {arm["budget"]: title for title, arm in told.items() if title.startswith(f"{CLAIM}@")}
    ahead = _ahead(predicted, told, [title for title in small if title not in claims.values()], claims)
    level = 1 - (1 - LEVEL) / max(1, len(claims) * len(references))
    rows = [_row(title, arm, predicted, references, level, ahead) for title, arm in told.items()]
    print_table(name, rows, references, level)
    return {
        "set": name,
        "references": references,
        "level": level,
        "arms": rows,
        "ceiling": ensemble_auc(told[references[-1]]["runs"]) if len(references) > 1 else None,
        "claims": list(claims.values()),
        "auto": _chosen(told),
        "slices": {
            claim: sliced(told, claim, [*SLICED[:2], *(f"{arm}@{budget}" for arm in SLICED[2:])])
            for budget, claim in claims.items()
        },
        "served": of_arms(told, folder / "served"),
    }


def _files(arm: dict[str, Any]) -> list[list[Path]]:
    return [[Path(run) / "predictions.parquet" for run in runs] for runs in arm["runs"]]


def _chosen(told: dict[str, Any]) -> dict[str, str]:
    """Return, for each budget, the student that does best on validation, as `recsys compress --into auto` takes it."""
    chosen: dict[str, str] = {}
    for title, arm in told.items():
        if title.partition("@")[0] not in CANDIDATES or not arm["budget"]:
            continue
        best = chosen.get(arm["budget"])
        if best is None or arm["validation"] > told[best]["validation"]:
            chosen[arm["budget"]] = title
    return chosen


def _ahead(
    predicted: Predicted, told: dict[str, Any], rivals: list[str], claims: dict[str, str]
) -> dict[str, dict[str, float]]:
    """Return how far coded students are ahead of rivals of their budget, and p-values after Holm over all of them."""
    differences = [
        predicted.difference(claims[told[rival]["budget"]], rival)
        for rival in rivals
        if told[rival]["budget"] in claims
    ]
    adjusted = holm([difference.p_value for difference in differences])
    return {
        difference.other: {"estimate": difference.estimate, "holm": p_value}
        for difference, p_value in zip(differences, adjusted, strict=True)
    }


def _row(
    title: str,
    arm: dict[str, Any],
    predicted: Predicted,
    references: list[str],
    level: float,
    ahead: dict[str, dict[str, float]],
) -> dict[str, Any]:
    auc = predicted.auc(title)[:, :, 0].mean(axis=1)
    against = {other: predicted.difference(title, other) for other in references if other != title}
    return {
        "arm": title,
        "bytes": sum(b["total"] for b in arm["bytes"]) / len(arm["bytes"]),
        "full_table": arm["bytes"][0]["full_table"],
        "serving": sum(b["serving"] for b in arm["bytes"]) / len(arm["bytes"]),
        "auc": float(auc.mean()),
        "by_split": auc.tolist(),
        "against": {
            other: {"estimate": d.estimate, "interval": d.interval(level), "by_split": d.by_split}
            for other, d in against.items()
        },
        "ahead": ahead.get(title),
        "seconds": arm["seconds"],
        "settings": arm["settings"],
    }


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
        ahead = row["ahead"]
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
