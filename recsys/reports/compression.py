"""What `recsys compress` shows: what was kept, at what cost in quality, and whether evolving paid; as text, tables, HTML.

Validation rows chose, so what is said of them has no interval. Verdicts are of trained arms, on test rows.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from recsys.comparison.judge import Judgement, Options, judge
from recsys.comparison.predictions import Predictions
from recsys.compression.evolution import Scored, by_quality
from recsys.compression.search import CompressionResult
from recsys.compression.space import Genome
from recsys.evaluation.arms.compare import Verdict
from recsys.reports import comparison as comparison_report
from recsys.reports.comparison import WORDS, differences_sheet, main_sheets, power_lines, verdicts
from recsys.reports.comparison_pictures import comparison_pictures
from recsys.reports.compression_pictures import (
    NAMES,
    evaluated,
    fields_picture,
    progress_picture,
    trade_picture,
)
from recsys.reports.page import share, write_html
from recsys.reports.sheet import Row, Sheet
from recsys.training.run import PREDICTIONS
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import FIRST_CODE

MOST = 50  # genomes of a table
RIVALS = ("random", "uniform")


def summary(found: CompressionResult) -> str:
    """What is kept, its quality, and where the method did not pay, in a few sentences."""
    return " ".join(_paragraphs(found))


def compression_sheets(found: CompressionResult) -> list[Sheet]:
    """Searches and fields, trained arms if there are any; folded, what was evaluated."""
    seen = impressions(found)
    return [
        _searches_sheet(found),
        _fields_sheet(found, seen),
        *_trained_sheets(found),
        *_evaluated_sheets(found),
    ]


def write_compression(found: CompressionResult, path: Path) -> None:
    """Render a search into a self-contained HTML file."""
    seen = impressions(found)
    judged = None if found.compared is None else found.compared.judged
    rivals = against_rivals(found)
    write_html(
        path,
        "compression.html.j2",
        title=f"Small tables for {found.config.name}, within {found.budget}",
        texts=_paragraphs(found),
        note=f"{_started(found)} Bytes are all that must be resident in training: weights, the table optimiser's state, "
        "vocabularies of kept ids, remaps.",
        sheets=[_searches_sheet(found), _fields_sheet(found, seen)],
        pictures=[fields_picture(found, seen), trade_picture(found), progress_picture(found)],
        judged=judged,
        seeds=0 if judged is None else judged.comparison.arms[0].seeds,
        judged_summary="" if judged is None else comparison_report.summary(judged),
        power=[] if judged is None else power_lines(judged),
        verdicts=[line for said in (judged, rivals) if said is not None for line in verdicts(said)],
        trained=_trained_sheets(found),
        trained_pictures=[] if judged is None else comparison_pictures(judged),
        details=_evaluated_sheets(found),
    )


def impressions(found: CompressionResult) -> dict[str, float | None]:
    """Of all validation impressions of known ids, the share whose id keeps a row; None where there are none."""
    rows = Rows.load(found.prepared, "validation")
    shares: dict[str, float | None] = {}
    for name, keep in found.space.keep(found.best).items():
        ids = rows.ids_of(name)
        known = keep[ids[ids >= FIRST_CODE]]
        shares[name] = float(known.mean()) if known.size else None
    return shares


def against_rivals(found: CompressionResult) -> Judgement | None:
    """The rivals' trained tables against the evolution's, on test; None where nothing was trained."""
    if found.compared is None:
        return None
    overall = found.compared.overall
    arms = tuple(
        (arm.name, tuple(run.verified(PREDICTIONS) for run in arm.runs)) for arm in found.compared.arms[1:]
    )
    return _judged(arms, Options(replicates=overall.replicates, level=overall.level))


@lru_cache(maxsize=1)  # a bootstrap of finished runs, for the page, the terminal and the summary
def _judged(arms: tuple[tuple[str, tuple[Path, ...]], ...], options: Options) -> Judgement:
    return judge({name: [Predictions(path) for path in paths] for name, paths in arms}, options)


def _paragraphs(found: CompressionResult) -> list[str]:
    return [_kept(found), " ".join(_searched(found)), " ".join(_trained(found))]


def _kept(found: CompressionResult) -> str:
    best, space = found.outcomes["evolution"].best, found.space
    ids = sum(space.num_codes[name] - FIRST_CODE for name in space.features)
    rows = sum(best.genome.rows)
    lost = [name for name, width in zip(space.features, best.genome.widths, strict=True) if width == 0]
    return (
        f"Within {found.budget}, {found.budget_bytes:,} bytes, evolution keeps {rows:,} of {ids:,} ids "
        f"({share(rows / ids if ids else None)}) with a mean width of {mean_width(best.genome):.1f} of "
        f"{space.embedding_dim}: {best.bytes:,} bytes, "
        f"{share(best.bytes / found.full_bytes)} of the full table's {found.full_bytes:,}."
        + (f" It gives up {', '.join(lost)}." if lost else "")
    )


def _searched(found: CompressionResult) -> list[str]:
    """Quality on validation, of all searches and of all that is kept."""
    best = found.outcomes["evolution"].best
    others = ", ".join(
        f"{NAMES[name]} {_metric(found.outcomes[name].best.quality)} ({found.outcomes[name].evaluations:,})"
        for name in RIVALS
    )
    lines = [
        f"On validation, by the learner's weights, their AUC is {_metric(best.quality)}, and "
        f"{_metric(found.full)} with all that the learner keeps: a difference of "
        f"{_change(best.quality - found.full)}.",
        f"Best of each search (evaluations): evolution {_metric(best.quality)} "
        f"({found.outcomes['evolution'].evaluations:,}), {others}.",
    ]
    behind = []
    for name in RIVALS:
        rival = found.outcomes[name].best
        if rival.genome == best.genome:
            behind.append(f"{NAMES[name]} finds the same tables")
        elif rival.quality >= best.quality:
            word = "better" if rival.quality > best.quality else "as good"
            behind.append(f"{NAMES[name]} is {word}")
    if behind:
        lines.append(f"Evolution did not pay on validation: {' and '.join(behind)}.")
    else:
        lines.append("Evolution is ahead of both there, on the rows that chose it.")
    return lines


def _trained(found: CompressionResult) -> list[str]:
    """Verdicts on test: the evolution's tables against the full ones, and against its rivals'."""
    rivals = against_rivals(found)
    if found.compared is None or rivals is None:
        return ["Nothing was trained: whether these tables are worse than the full ones is not known."]
    seeds = found.compared.overall.arms[0].seeds
    lines = [f"Trained with {seeds} seed{'s' * (seeds > 1)}, on test: {verdicts(found.compared.judged)[0]}"]
    for name, d in zip(RIVALS, rivals.auc, strict=True):
        interval = ""
        if d.interval is not None:
            low, high = d.interval
            interval = f", {rivals.comparison.level:.0%} interval {low:+.4f} to {high:+.4f}"
        lines.append(
            f"{NAMES[name].capitalize()} is {WORDS[d.verdict]} evolution there ({d.estimate:+.4f}{interval})."
        )
    return [*lines, _moral({NAMES[name]: d.verdict for name, d in zip(RIVALS, rivals.auc, strict=True)})]


def _moral(rivals: Mapping[str, Verdict]) -> str:
    """One conclusion from the verdicts on all rivals against the evolution, so that no two contradict each other."""
    better = [name for name, verdict in rivals.items() if verdict == "better"]
    undecided = [name for name, verdict in rivals.items() if verdict == "undecided"]
    if better:
        return f"So evolution did not pay: {' and '.join(better)} did better."
    if undecided:
        return f"So it is not shown that evolution pays over {' and '.join(undecided)}."
    return "So evolution paid."


def _started(found: CompressionResult) -> str:
    weights = {"initial": "initial weights", "inherited": "the learner's weights"}[
        found.config.compression.weights
    ]
    return (
        f"Genomes were judged on at most {found.config.compression.validation_rows:,} validation rows, without training; "
        f"test rows chose nothing. Compact tables are trained from {weights}."
    )


def _searches_sheet(found: CompressionResult) -> Sheet:
    everything = found.space.everything()
    kept = Scored(everything, found.full, found.space.bytes(everything))
    rows: list[Row] = [("all that the learner keeps", *_scored(found, kept), "–", "–")]
    for name, outcome in found.outcomes.items():
        until = outcome.history[-1][0]
        rows.append((NAMES[name], *_scored(found, outcome.best), f"{outcome.evaluations:,}", f"{until:,}"))
    return Sheet(
        "Searches",
        ("best of", *_headers(), "evaluations", "until the best"),
        rows,
        f"Quality by the learner's weights, on validation rows, which chose it: expect less on others. Budget: "
        f"{found.budget_bytes:,} bytes. Uniform shrink has fewer evaluations where it ran out of genomes.",
    )


def _fields_sheet(found: CompressionResult, seen: dict[str, float | None]) -> Sheet:
    space, best = found.space, found.best
    rows = []
    for i, (name, width, kept) in enumerate(zip(space.features, best.widths, best.rows, strict=True)):
        ids = space.num_codes[name] - FIRST_CODE
        size = space.field_bytes(i, width, kept)
        rows.append(
            (
                name,
                f"{ids:,}",
                f"{kept:,}",
                share(kept / ids if ids else None),
                share(seen[name]),
                str(width or "given up"),
                f"{size:,}",
            )
        )
    return Sheet(
        "Fields",
        ("field", "ids in training", "ids kept", "share", "impressions", "width", "bytes"),
        rows,
        "What evolution keeps. Ids in training: those of the vocabulary. Impressions: of validation impressions of such "
        "ids, the share whose id keeps a row. All other ids share the row of unknown ones.",
    )


def _trained_sheets(found: CompressionResult) -> list[Sheet]:
    rivals = against_rivals(found)
    if found.compared is None or rivals is None:
        return []
    title = f"Differences from {rivals.comparison.baseline}"
    return [*main_sheets(found.compared.judged), differences_sheet(rivals.comparison, title)]


def _evaluated_sheets(found: CompressionResult) -> list[Sheet]:
    every = evaluated(found)
    searches = {**{NAMES[name]: outcome for name, outcome in found.outcomes.items()}, "front": found.front}
    by: dict[Genome, list[str]] = {}
    for name, outcome in searches.items():
        for one in outcome.evaluated:
            by.setdefault(one.genome, []).append(name)
    fitting = [one for one in every.evaluated if one.bytes <= found.budget_bytes]
    headers = _headers()
    return [
        Sheet(
            f"Best genomes within {found.budget}",
            ("", *headers, "found by"),
            [
                (str(place), *_scored(found, one), ", ".join(by.get(one.genome, ())))
                for place, one in enumerate(by_quality(fitting)[:MOST], 1)
            ],
            f"Of {len(every.evaluated):,} genomes that were evaluated, {len(fitting):,} fit the budget.",
            folded=True,
        ),
        Sheet(
            "Pareto front",
            ("", *headers, "from all kept"),
            [
                (str(place), *_scored(found, one), _change(one.quality - found.full))
                for place, one in enumerate(every.front, 1)
            ],
            "Genomes that no other beats in quality without more bytes, of all that were evaluated.",
            folded=True,
        ),
    ]


def _headers() -> Row:
    return (
        "validation AUC",
        "bytes",
        "of full",
        "ids kept",
        "mean width",
    )


def _scored(found: CompressionResult, one: Scored) -> Sequence[str]:
    """Cells of `_headers`."""
    return (
        _metric(one.quality),
        f"{one.bytes:,}",
        share(one.bytes / found.full_bytes),
        f"{sum(one.genome.rows):,}",
        f"{mean_width(one.genome):.1f}",
    )


def mean_width(genome: Genome) -> float:
    """Over rows, the reserved ones too."""
    rows = [n + FIRST_CODE if width else 0 for width, n in zip(genome.widths, genome.rows, strict=True)]
    return float(np.average(genome.widths, weights=rows))


def _metric(quality: float) -> str:
    return f"{quality:.5f}"


def _change(difference: float) -> str:
    return f"{difference:+.5f}"
