"""Draw architecture.svg, which stands beside this file: the parts of the engine, and what goes from one to the next."""

from pathlib import Path

FLOORS = (  # y, height, colour, title
    (20, 118, "#e8eaf6", "recsys_pipelines (floor 2)"),
    (158, 118, "#fff3e0", "recsys_tables (floor 2)"),
    (296, 196, "#e8f5e9", "recsys (floor 3)"),
    (512, 58, "#eceff1", "recsys_cython_ext (floor 1)"),
)
BOXES = {  # name: x, y, width, lines
    "log": (30, 60, 150, "raw log:", "text, Parquet, Arrow,", "or generated"),
    "convert": (230, 60, 160, "sources, features:", "ids, numbers, labels", "on threads or on Ray"),
    "fit": (440, 60, 160, "features: fit, encode;", "inspection, drift,", "one request alike"),
    "batches": (650, 60, 160, "batches: order,", "loader, negatives", "from mapped shards"),
    "plan": (230, 198, 160, "declared tables and", "a budget; planning:", "the largest that fit"),
    "schemes": (440, 198, 160, "schemes: tables(),", "rows(), combine();", "codes"),
    "engine": (650, 198, 160, "engine over TorchRec;", "sharding, checkpoints", "of logical rows"),
    "artefact": (860, 198, 150, "artefact: looked up", "without torch"),
    "tuning": (30, 336, 150, "tuning:", "trials on validation"),
    "compression": (230, 336, 160, "compression: codes,", "students of teachers;", "or rows and widths"),
    "models": (440, 336, 160, "models: vectors to", "a logit"),
    "training": (650, 336, 160, "training: feed,", "pipeline, store"),
    "run": (860, 336, 150, "run folder: settings,", "checkpoint, predictions"),
    "reports": (440, 418, 160, "reports and", "commands"),
    "comparison": (650, 418, 160, "comparison and policies", "over evaluation"),
    "serving": (860, 418, 150, "serving:", "scoring, export"),
}
ARROWS = (
    ("log", "convert", "parts"),
    ("convert", "fit", "rows"),
    ("fit", "batches", "shards"),
    ("batches", "engine", "ids"),
    ("plan", "schemes", ""),
    ("schemes", "engine", ""),
    ("compression", "models", ""),
    ("models", "training", ""),
    ("training", "run", ""),
    ("run", "serving", ""),
    ("comparison", "reports", ""),
    ("tuning", "compression", ""),
)
PATHS = (  # drawn by hand: a way, the place of its label, its label
    ("M650 250 H620 V318 H560 V334", (556, 312), "vectors [B, F, D]"),
    ("M880 398 V408 H760 V416", None, ""),
    ("M1010 449 H1020 V229 H1012", None, ""),
)
HEIGHT = 62


def main() -> None:
    """Write the picture."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1040 590" font-family="Helvetica, Arial, sans-serif" '
        'font-size="13" role="img" aria-label="The parts of the engine by package, and what goes from one to the next">',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 10 5 0 10z" fill="#37474f"/></marker></defs>',
        '<rect width="1040" height="590" rx="8" fill="#ffffff"/>',
    ]
    for y, height, colour, title in FLOORS:
        parts.append(f'<rect x="12" y="{y}" width="1016" height="{height}" rx="8" fill="{colour}"/>')
        parts.append(f'<text x="24" y="{y + 22}" font-weight="bold" fill="#37474f">{title}</text>')
    for x, y, width, *lines in BOXES.values():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="5" fill="#ffffff" stroke="#90a4ae"/>'
        )
        first = y + HEIGHT / 2 + 5 - 8.5 * (len(lines) - 1)
        for number, line in enumerate(lines):
            middle = f'x="{x + width / 2:g}" y="{first + 17 * number:g}" text-anchor="middle"'
            parts.append(f'<text {middle} fill="#263238">{line}</text>')
    parts += [_arrow(*arrow) for arrow in ARROWS]
    for way, place, label in PATHS:
        parts.append(
            f'<path d="{way}" fill="none" stroke="#37474f" stroke-width="1.5" marker-end="url(#tip)"/>'
        )
        if place is not None:
            parts.append(
                f'<text x="{place[0]}" y="{place[1]}" text-anchor="end" fill="#37474f">{label}</text>'
            )
    kernels = "hash, XXH64, id tables, static functions, lookup, text splitting, exact sums, gathering, files, manifests"
    parts.append(f'<text x="520" y="556" text-anchor="middle" fill="#263238">{kernels}</text></svg>')
    Path(__file__).with_suffix(".svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _arrow(start: str, end: str, label: str) -> str:
    """Return an arrow between boxes: to the right or to the left in a row, else down."""
    ax, ay, a_width, *_ = BOXES[start]
    bx, by, b_width, *_ = BOXES[end]
    if ay == by:
        x, to = (ax + a_width, bx) if ax < bx else (ax, bx + b_width)
        way = f"M{x} {ay + HEIGHT / 2:g} H{to}"
        place = f'x="{(x + to) / 2:g}" y="{ay + HEIGHT / 2 - 6:g}"'
    else:
        x = min(ax + a_width, bx + b_width) - 75
        way = f"M{x} {ay + HEIGHT if ay < by else ay} V{by if ay < by else by + HEIGHT}"
        place = f'x="{x + 16}" y="{(ay + HEIGHT + by) / 2 + 4:g}"'
    line = f'<path d="{way}" fill="none" stroke="#37474f" stroke-width="1.5" marker-end="url(#tip)"/>'
    return line + (
        f'<text {place} font-size="11" text-anchor="middle" fill="#37474f">{label}</text>' if label else ""
    )


if __name__ == "__main__":
    main()
