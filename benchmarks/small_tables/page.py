"""Tables in Markdown and a picture of every set, from the JSON file that `--out` of the comparison wrote.

python benchmarks/small_tables/page.py RESULT.json --pictures docs/pictures
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from served import smallest

matplotlib.use("Agg")
MARKERS = "osD^vP*X<>hd"


def table(result: dict[str, Any]) -> str:
    """Return the arms of a set, each budget's by falling AUC; `coded ahead` has p-values after Holm."""
    reference, *taught = result["references"]
    lines = [
        "| arm | bytes | of full | to serve | AUC | splits, lowest to highest "
        f"| Δ to {reference} | Δ to it with the teacher | coded ahead by (Holm's p) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ordered(result):
        lines.append(
            f"| {row['arm']} | {row['bytes']:,.0f} | {row['bytes'] / row['full_table']:.1%} | {served(row, result)} "
            f"| {row['auc']:.4f} | {min(row['by_split']):.4f}–{max(row['by_split']):.4f} "
            f"| {change(row, reference)} | {change(row, taught[0]) if taught else '–'} "
            f"| {lead(row)} |"
        )
    return "\n".join(lines)


def served(row: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the bytes to serve an arm, in the fewest bits that cost no AUC to speak of."""
    if row["arm"] not in result["served"]:
        return f"{row['serving']:,.0f}"
    dtype, found = smallest(result["served"][row["arm"]])
    return f"{found['bytes']:,.0f} ({dtype})"


def slices(result: dict[str, Any]) -> str:
    """Return how the arms do on rows with new, rare and frequent ids, at each claim's budget."""
    lines = []
    for claim, parts in result["slices"].items():
        arms = list(parts[0]["auc"])
        lines += [
            f"| {claim}: test rows with | rows | " + " | ".join(arms) + " |",
            "|---|---|" + "---|" * len(arms),
        ]
        for part in parts:
            cells = [f"{part['auc'][claim]:.4f}"]
            for arm in arms[1:]:
                ahead = part["ahead"][arm]
                error = "" if math.isnan(ahead["error"]) else f" ± {1.96 * ahead['error']:.4f}"
                cells.append(f"{part['auc'][arm]:.4f} ({ahead['estimate']:+.4f}{error})")
            lines.append(f"| {part['slice']} | {part['rows']:,} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def lead(row: dict[str, Any]) -> str:
    """Return how far coded students are ahead of an arm of their budget, and the p-value."""
    ahead = row["ahead"]
    return "–" if ahead is None else f"{ahead['estimate']:+.4f} ({p_value(ahead['holm'])})"


def ordered(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the arms from large budgets to small ones, the best of each first."""
    return sorted(result["arms"], key=lambda row: (-budget(row["arm"]), -row["auc"]))


def budget(arm: str) -> float:
    """Return the budget of an arm in per cent, 100 where it has none."""
    return float(arm.rpartition("@")[2].rstrip("%")) if "@" in arm else 100.0


def change(row: dict[str, Any], other: str) -> str:
    """Return a difference with its interval."""
    if other not in row["against"]:
        return "–"
    found = row["against"][other]
    low, high = found["interval"]
    return f"{found['estimate']:+.4f} [{low:+.4f}, {high:+.4f}]"


def p_value(value: float) -> str:
    """Return a p-value."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def picture(result: dict[str, Any], file: Path) -> None:
    """Draw AUC over bytes: a line for each arm, solid with the teacher and dashed without."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[float, float]]] = {}
    for row in result["arms"]:
        families.setdefault(row["arm"].rpartition("@")[0] or row["arm"], []).append(
            (row["bytes"], row["auc"])
        )
    plain = sorted({name.removesuffix("+teacher") for name in families})
    for name, points in sorted(families.items()):
        kind = plain.index(name.removesuffix("+teacher"))
        bytes_of, auc = zip(*sorted(points), strict=True)
        color = matplotlib.colormaps["tab20"](kind % 20)
        style = "-" if name.endswith("+teacher") else "--"
        axes.plot(
            bytes_of, auc, style, color=color, marker=MARKERS[kind % len(MARKERS)], label=name, markersize=5
        )
    axes.set(
        xscale="log",
        xlabel="resident bytes of the tables in training",
        ylabel="test AUC, mean over splits and students",
    )
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    arguments = parser.parse_args()
    for result in json.loads(arguments.result.read_text()):
        file = arguments.pictures / f"small-{result['set']}.png"
        picture(result, file)
        print(f"## {result['set']}\n\n{table(result)}\n\n![Quality against bytes](pictures/{file.name})\n")
        print(f"On validation `--into auto` takes {result['auto']}.\n")
        if result["ceiling"]:
            print(f"The teachers together: {sum(result['ceiling']) / len(result['ceiling']):.4f}.\n")
        print(slices(result))


if __name__ == "__main__":
    main()
