"""The report of a compression: what is kept, at what cost in quality, and whether evolving paid; as text, tables, HTML.

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
from recsys.reports.page import share, write_html
from recsys.reports.pictures.comparison import comparison_pictures
from recsys.reports.pictures.compression import (
    NAMES,
    evaluated,
    fields_picture,
    progress_picture,
    trade_picture,
)
from recsys.reports.sheet import Row, Sheet
from recsys.training.run import PREDICTIONS
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import FIRST_CODE

MOST = 50  # genomes of a table
RIVALS = ("random", "uniform")


def summary(result: CompressionResult) -> str:
    """Say what is kept, its quality, and where the method did not pay, in a few sentences."""
    return " ".join(_paragraphs(result))


def answer(result: CompressionResult) -> str:
    """Return what is kept, and of how many bytes, in a sentence or two."""
    return _kept_sentence(result)


def compression_sheets(result: CompressionResult) -> list[Sheet]:
    """Return searches and fields."""
    return [_searches_sheet(result), _fields_sheet(result, impressions(result))]


def write_compression(result: CompressionResult, path: Path | str) -> None:
    """Render a search into a self-contained HTML file."""
    shares = impressions(result)
    judged = None if result.compared is None else result.compared.judged
    rivals = against_rivals(result)
    write_html(
        path,
        "compression.html.j2",
        title=f"Small tables for {result.config.name}, within {result.budget}",
        answer=answer(result),
        picture=trade_picture(result),
        texts=_paragraphs(result)[1:],
        note=f"{_started(result)} Bytes are all that must be resident in training: weights, the table optimiser's state, "
        "vocabularies of kept ids, remaps.",
        sheets=compression_sheets(result),
        pictures=[
            fields_picture(result, shares),
            progress_picture(result),
            *([] if judged is None else comparison_pictures(judged)),
        ],
        judged=judged,
        seeds=0 if judged is None else judged.comparison.arms[0].seeds,
        judged_summary="" if judged is None else comparison_report.summary(judged),
        power=[] if judged is None else power_lines(judged),
        verdicts=[
            line for judgement in (judged, rivals) if judgement is not None for line in verdicts(judgement)
        ],
        details=detail_sheets(result),
    )


def detail_sheets(result: CompressionResult) -> list[Sheet]:
    """Return the tables of trained arms, if there are any, and what was evaluated."""
    return [*_trained_sheets(result), *_evaluated_sheets(result)]


def detail_lines(result: CompressionResult) -> list[str]:
    """Return the sentences behind the answer: what the data can find, and how the searches did."""
    judged = None if result.compared is None else result.compared.judged
    return [*([] if judged is None else power_lines(judged)), *_paragraphs(result)[1:]]


def impressions(result: CompressionResult) -> dict[str, float | None]:
    """Return the share of validation impressions of known ids whose id keeps a row, by field; None without impressions."""
    rows = Rows.load(result.prepared, "validation")
    shares: dict[str, float | None] = {}
    for name, keep in result.space.keep(result.best).items():
        ids = rows.ids_of(name)
        known = keep[ids[ids >= FIRST_CODE]]
        shares[name] = float(known.mean()) if known.size else None
    return shares


def against_rivals(result: CompressionResult) -> Judgement | None:
    """Judge the rivals' trained tables against the evolution's, on test; None where nothing was trained."""
    if result.compared is None:
        return None
    overall = result.compared.overall
    arms = tuple(
        (arm.name, tuple(run.verified(PREDICTIONS) for run in arm.runs)) for arm in result.compared.arms[1:]
    )
    return _judged(arms, Options(replicates=overall.replicates, level=overall.level))


@lru_cache(maxsize=1)  # a bootstrap of finished runs, for the page, the terminal and the summary
def _judged(arms: tuple[tuple[str, tuple[Path, ...]], ...], options: Options) -> Judgement:
    return judge({name: [Predictions(path) for path in paths] for name, paths in arms}, options)


def _paragraphs(result: CompressionResult) -> list[str]:
    return [_kept_sentence(result), " ".join(_searched(result)), " ".join(_trained(result))]


def _kept_sentence(result: CompressionResult) -> str:
    """Say which share of ids evolution keeps, in which widths, and how many bytes these are."""
    best, space = result.outcomes["evolution"].best, result.space
    ids = sum(space.num_codes[name] - FIRST_CODE for name in space.features)
    rows = sum(best.genome.rows)
    lost = [name for name, width in zip(space.features, best.genome.widths, strict=True) if width == 0]
    return (
        f"Within {result.budget}, {result.budget_bytes:,} bytes, evolution keeps {rows:,} of {ids:,} ids "
        f"({share(rows / ids if ids else None)}) with a mean width of {mean_width(best.genome):.1f} of "
        f"{space.embedding_dim}: {best.bytes:,} bytes, "
        f"{share(best.bytes / result.full_bytes)} of the full table's {result.full_bytes:,}."
        + (f" It gives up {', '.join(lost)}." if lost else "")
    )


def _searched(result: CompressionResult) -> list[str]:
    """Say the quality on validation, of all searches and of all that is kept."""
    best = result.outcomes["evolution"].best
    others = ", ".join(
        f"{NAMES[name]} {_metric(result.outcomes[name].best.quality)} ({result.outcomes[name].evaluations:,})"
        for name in RIVALS
    )
    lines = [
        f"On validation, by the learner's weights, their AUC is {_metric(best.quality)}, and "
        f"{_metric(result.full)} with all that the learner keeps: a difference of "
        f"{_change(best.quality - result.full)}.",
        f"Best of each search (evaluations): evolution {_metric(best.quality)} "
        f"({result.outcomes['evolution'].evaluations:,}), {others}.",
    ]
    behind = []
    for name in RIVALS:
        rival = result.outcomes[name].best
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


def _trained(result: CompressionResult) -> list[str]:
    """Say the verdicts on test: the evolution's tables against the full ones, and against its rivals'."""
    rivals = against_rivals(result)
    if result.compared is None or rivals is None:
        return ["Nothing was trained: whether these tables are worse than the full ones is not known."]
    seeds = result.compared.overall.arms[0].seeds
    lines = [f"Trained with {seeds} seed{'s' * (seeds > 1)}, on test: {verdicts(result.compared.judged)[0]}"]
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
    """Draw one conclusion from the verdicts on all rivals against the evolution, so that no two contradict each other."""
    better = [name for name, verdict in rivals.items() if verdict == "better"]
    undecided = [name for name, verdict in rivals.items() if verdict == "undecided"]
    if better:
        return f"So evolution did not pay: {' and '.join(better)} did better."
    if undecided:
        return f"So it is not shown that evolution pays over {' and '.join(undecided)}."
    return "So evolution paid."


def _started(result: CompressionResult) -> str:
    weights = {"initial": "initial weights", "inherited": "the learner's weights"}[
        result.config.compression.weights
    ]
    return (
        f"Genomes were judged on at most {result.config.compression.validation_rows:,} validation rows, without training; "
        f"test rows chose nothing. Compact tables are trained from {weights}."
    )


def _searches_sheet(result: CompressionResult) -> Sheet:
    everything = result.space.everything()
    learner = Scored(everything, result.full, result.space.bytes(everything))
    rows: list[Row] = [("all that the learner keeps", *_scored(result, learner), "–", "–")]
    for name, outcome in result.outcomes.items():
        until = outcome.history[-1][0]
        rows.append((NAMES[name], *_scored(result, outcome.best), f"{outcome.evaluations:,}", f"{until:,}"))
    return Sheet(
        "Searches",
        ("best of", *_headers(), "evaluations", "until the best"),
        rows,
        f"Quality by the learner's weights, on validation rows, which chose it: expect less on others. Budget: "
        f"{result.budget_bytes:,} bytes. Uniform shrink has fewer evaluations where it ran out of genomes.",
    )


def _fields_sheet(result: CompressionResult, shares: dict[str, float | None]) -> Sheet:
    space, best = result.space, result.best
    rows = []
    for i, (name, width, count) in enumerate(zip(space.features, best.widths, best.rows, strict=True)):
        ids = space.num_codes[name] - FIRST_CODE
        size = space.field_bytes(i, width, count)
        rows.append(
            (
                name,
                f"{ids:,}",
                f"{count:,}",
                share(count / ids if ids else None),
                share(shares[name]),
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


def _trained_sheets(result: CompressionResult) -> list[Sheet]:
    rivals = against_rivals(result)
    if result.compared is None or rivals is None:
        return []
    title = f"Differences from {rivals.comparison.baseline}"
    return [*main_sheets(result.compared.judged), differences_sheet(rivals.comparison, title)]


def _evaluated_sheets(result: CompressionResult) -> list[Sheet]:
    every = evaluated(result)
    searches = {**{NAMES[name]: outcome for name, outcome in result.outcomes.items()}, "front": result.front}
    by: dict[Genome, list[str]] = {}
    for name, outcome in searches.items():
        for scored in outcome.evaluated:
            by.setdefault(scored.genome, []).append(name)
    fitting = [scored for scored in every.evaluated if scored.bytes <= result.budget_bytes]
    headers = _headers()
    return [
        Sheet(
            f"Best genomes within {result.budget}",
            ("", *headers, "found by"),
            [
                (str(place), *_scored(result, scored), ", ".join(by.get(scored.genome, ())))
                for place, scored in enumerate(by_quality(fitting)[:MOST], 1)
            ],
            f"Of {len(every.evaluated):,} genomes that were evaluated, {len(fitting):,} fit the budget.",
            folded=True,
        ),
        Sheet(
            "Pareto front",
            ("", *headers, "from all kept"),
            [
                (str(place), *_scored(result, scored), _change(scored.quality - result.full))
                for place, scored in enumerate(every.front, 1)
            ],
            "Genomes that no other beats in quality without more bytes, of all that were evaluated.",
            folded=True,
        ),
    ]


def _headers() -> Row:
    return ("validation AUC", "bytes", "of full", "ids kept", "mean width")


def _scored(result: CompressionResult, scored: Scored) -> Sequence[str]:
    """Return the cells below `_headers`."""
    return (
        _metric(scored.quality),
        f"{scored.bytes:,}",
        share(scored.bytes / result.full_bytes),
        f"{sum(scored.genome.rows):,}",
        f"{mean_width(scored.genome):.1f}",
    )


def mean_width(genome: Genome) -> float:
    """Return the mean width over rows, the reserved ones too."""
    rows = [n + FIRST_CODE if width else 0 for width, n in zip(genome.widths, genome.rows, strict=True)]
    return float(np.average(genome.widths, weights=rows))


def _metric(quality: float) -> str:
    return f"{quality:.5f}"


def _change(difference: float) -> str:
    return f"{difference:+.5f}"
