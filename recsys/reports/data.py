"""The reports of an inspection and of drift: the same tables in a terminal and in a self-contained HTML file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from recsys.reports.page import Picture, drawn, write_page
from recsys.reports.sheet import Row, Sheet
from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT, ONE_IN
from recsys_pipelines.inspection.drift import Drift
from recsys_pipelines.inspection.psi import DRIFTED, SHIFTED, FeatureDrift
from recsys_pipelines.inspection.result import CategoricalReport, Inspection, NumericReport, Rate

VERDICTS = ("stable", "shifted", "drifted")


def inspection_sheets(inspection: Inspection) -> list[Sheet]:
    """Return splits; then, where there are such, categorical features (values, then ids and labels) and numbers."""
    sheets = [_splits_sheet(inspection)]
    if inspection.categorical:
        sheets += [_values_sheet(inspection.categorical), _ids_sheet(inspection.categorical)]
    if inspection.numeric:
        sheets.append(_numbers_sheet(inspection.numeric))
    return sheets


def drift_sheets(drift: Drift) -> list[Sheet]:
    """Return features by falling PSI, and label rates."""
    return [_drift_sheet(drift), _labels_sheet(drift)]


def inspection_summary(inspection: Inspection) -> str:
    """Say in a sentence how many rows went in and out."""
    added = f" + {inspection.rows_added:,} made of them" if inspection.rows_added else ""
    return (
        f"{inspection.rows_in:,} rows in{added} = {inspection.rows_out:,} out + {inspection.quarantined:,} quarantined; "
        f"{len(inspection.categorical)} categorical features, {len(inspection.numeric)} numeric columns"
    )


def drift_summary(drift: Drift) -> str:
    """Say in a sentence or two how many features drifted, and what the label rate did."""
    counts = {word: [f.name for f in drift.features if f.verdict == word] for word in VERDICTS}
    names = f" ({', '.join(counts['drifted'])})" if counts["drifted"] else ""
    low, high = drift.label.interval
    return (
        f"{len(counts['drifted'])} of {len(drift.features)} features drifted{names}, "
        f"{len(counts['shifted'])} shifted, {len(counts['stable'])} are stable. Label rate {_rate(drift.label.a)} in A, "
        f"{_rate(drift.label.b)} in B: {drift.label.difference:+.2%} (95 % interval {low:+.2%} to {high:+.2%})."
    )


def write_inspection(inspection: Inspection, path: Path | str) -> None:
    """Write tables and pictures as one HTML file, under a temporary name first."""
    title = f"Inspection of {Path(inspection.path).name}"
    write_page(
        path,
        title,
        [inspection_summary(inspection), inspection.path],
        inspection_sheets(inspection),
        drawn(lambda: _inspection_pictures(inspection)),
    )


def _inspection_pictures(inspection: Inspection) -> list[Picture]:
    from recsys.reports.pictures.data import curves_picture, deciles_picture, shares_pictures

    pictures = []
    if inspection.categorical:
        pictures.append(curves_picture(inspection.categorical))
    unknown = {f.name: {s: v.unknown_share for s, v in f.splits.items()} for f in inspection.categorical}
    note = "Ids rarer than the minimum count are unknown in training too; hashed ids where training has not seen them."
    note += _estimates(inspection.categorical)
    pictures += shares_pictures("Values out of the vocabulary, by split", unknown, note)
    missing = {f.name: {s: v.missing_share for s, v in f.splits.items()} for f in inspection.categorical}
    missing |= {column.name: column.missing_shares for column in inspection.numeric}
    note = "Of lists, the missing elements; an empty list has none."
    pictures += shares_pictures("Missing values, by split", missing, note)
    if inspection.numeric:
        pictures.append(deciles_picture(inspection))
    return pictures


def write_drift(drift: Drift, path: Path | str) -> None:
    """Write the table and pictures as one HTML file, under a temporary name first."""
    title = f"Drift from {Path(drift.a).name} to {Path(drift.b).name}"
    texts = [drift_summary(drift), f"A: {drift.a}", f"B: {drift.b}"]
    sheets = [*drift_sheets(drift), _largest_sheet(drift)]
    write_page(path, title, texts, sheets, drawn(lambda: _drift_pictures(drift)))


def _drift_pictures(drift: Drift) -> list[Picture]:
    from recsys.reports.pictures.data import labels_picture, new_ids_picture, psi_picture

    pictures = [psi_picture(_by_psi(drift)), labels_picture(drift)]
    if any(feature.new_impressions or feature.vanished_impressions for feature in drift.features):
        pictures.insert(1, new_ids_picture(_by_psi(drift)))
    return pictures


# Tables


def _splits_sheet(inspection: Inspection) -> Sheet:
    users = any(split.users for split in inspection.splits.values())
    times = any(split.times for split in inspection.splits.values())
    weights = any(split.weighted_rate is not None for split in inspection.splits.values())
    rows = [
        (
            name,
            f"{split.label.rows:,}",
            f"{split.label.positives:,}",
            _rate(split.label),
            _interval(split.label),
            *(("–" if split.weighted_rate is None else f"{split.weighted_rate:.2%}",) if weights else ()),
            *((f"{split.users or 0:,}",) if users else ()),
            *((" to ".join(f"{time}" for time in split.times or ("–",)),) if times else ()),
        )
        for name, split in inspection.splits.items()
    ]
    headers: Row = ("split", "rows", "positive", "label rate", "95 % interval")
    headers += ("by weight",) if weights else ()
    headers += (*(("users",) if users else ()), *(("times",) if times else ()))
    note = "Intervals are Wilson's, of independent rows."
    if weights:
        note += " Rates of labels count rows here and below, but for the one by weight."
    return Sheet("Splits", headers, rows, note)


def _values_sheet(features: Sequence[CategoricalReport]) -> Sheet:
    lists = any(feature.multivalued for feature in features)
    rows = []
    for feature in features:
        length = ""
        if feature.multivalued:
            length = " / ".join(
                "–" if values.mean_length is None else f"{values.mean_length:.1f}, {values.max_length}"
                for values in feature.splits.values()
            )
        rows.append(
            (
                feature.name,
                feature.encoding if feature.form == EXACT else f"{feature.encoding}, {feature.form}",
                "–" if feature.codes is None else f"{feature.codes:,}",
                f"{feature.ids:,}",
                f"{feature.singletons:,}",
                _share(feature.singleton_share),
                _over_splits(values.missing_share for values in feature.splits.values()),
                _over_splits(values.unknown_share for values in feature.splits.values()),
                *((length,) if lists else ()),
            )
        )
    headers: Row = ("feature", "encoding", "codes", "ids", "seen once", "of ids", "missing", "unknown")
    note = "Ids: of training. Missing, and unknown (out of the vocabulary): shares of values, training / validation / test."
    note += _estimates(features)
    if lists:
        headers, note = (*headers, "list length"), f"{note} List length: mean, longest."
    return Sheet("Categorical features: values", headers, rows, note)


def _ids_sheet(features: Sequence[CategoricalReport]) -> Sheet:
    rows = [
        (
            feature.name,
            _share(feature.skew.top_id),
            _share(feature.skew.top_percent),
            _number(feature.skew.gini, 2),
            f"{_number(feature.skew.zipf, 2)} ({feature.skew.zipf_ranks:,})"
            if feature.skew.zipf is not None
            else "–",
            _counted(feature.known),
            _counted(feature.unknown),
            _counted(feature.missing),
            "–" if feature.top_rates is None else " to ".join(f"{rate:.2%}" for rate in feature.top_rates),
        )
        for feature in features
    ]
    headers: Row = ("feature", "top id", "top 1 %", "Gini", "Zipf (ranks)")
    headers += ("label rate: known", "unknown", "missing", "top ten ids")
    note = (
        "Top id, top 1 % of ids: shares of training's impressions. Zipf: count ~ rank^-s, over the ids seen ten times "
        "or more. Label rates are of training's values, with how many there are."
    )
    note += _estimates(features)
    return Sheet("Categorical features: skew and labels", headers, rows, note)


def _estimates(features: Sequence[CategoricalReport]) -> str:
    """Name the features whose known and unknown values are estimates; of none say nothing."""
    names = [feature.name for feature in features if feature.form == FINGERPRINT]
    if not names:
        return ""
    return (
        f" Estimates for {', '.join(names)}: with form: fingerprint 1 in {ONE_IN} ({1 / ONE_IN:.2%}) of the ids outside "
        "the vocabulary passes for one inside, and counts as known; the true number of unknown values is to be expected at "
        f"{ONE_IN}/{ONE_IN - 1} of the one shown."
    )


def _numbers_sheet(columns: Sequence[NumericReport]) -> Sheet:
    rows = []
    for column in columns:
        rates = [decile.label.rate for decile in column.deciles if decile.label.rate is not None]
        quartiles = ("–",) * 3 if column.quartiles is None else (f"{value:.3g}" for value in column.quartiles)
        rows.append(
            (
                column.name,
                column.transform,
                _over_splits(column.missing_shares.values()),
                f"{column.mean:.3g} ± {column.deviation:.3g}",
                _significant(column.minimum),
                *quartiles,
                _significant(column.maximum),
                f"{min(rates):.2%} to {max(rates):.2%}" if rates else "–",
                _counted(column.missing),
            )
        )
    headers: Row = ("column", "transform", "missing", "scale", "min", "25 %", "50 %", "75 %", "max")
    headers += ("label rate by decile", "of missing")
    note = (
        "The present values of training, as the model reads them: (data after the transform - mean) / deviation, the two "
        "under scale. Missing: training / validation / test; – where it cannot be told from the training mean."
    )
    return Sheet("Numeric columns", headers, rows, note)


def _by_psi(drift: Drift) -> list[FeatureDrift]:
    return sorted(drift.features, key=lambda feature: -feature.psi)


def _drift_sheet(drift: Drift) -> Sheet:
    rows = [
        (
            feature.name,
            feature.kind,
            f"{feature.psi:.4f}",
            feature.verdict,
            _number(feature.by_chance, 4),
            f"{feature.buckets:,}",
            _over_splits(feature.missing),
            "–" if feature.ids is None else f"{feature.ids[0]:,} / {feature.ids[1]:,}",
            _share(feature.new_ids),
            _share(feature.new_impressions),
            _share(feature.vanished_impressions),
        )
        for feature in _by_psi(drift)
    ]
    headers: Row = ("feature", "kind", "PSI", "verdict", "by chance", "buckets", "missing A / B", "ids A / B")
    headers += ("new, of B's ids", "of B's impressions", "vanished, of A's")
    note = (
        f"Verdict: stable below {SHIFTED}, drifted above {DRIFTED}, a rule of thumb. By chance: the PSI to be expected of "
        "two samples of one population as large as these; a PSI near it says nothing. Ids below 0.1 % share a bucket, so "
        "look at new and vanished ids too: shares that training rows of the other set do not have."
    )
    return Sheet("Features by PSI", headers, rows, note)


def _labels_sheet(drift: Drift) -> Sheet:
    rows = [
        (name, *(text for rate in pair for text in (f"{rate.rows:,}", _rate(rate), _interval(rate))))
        for name, pair in drift.splits.items()
    ]
    headers: Row = (
        "split",
        "rows of A",
        "label rate",
        "95 % interval",
        "rows of B",
        "label rate",
        "95 % interval",
    )
    return Sheet("Label rates", headers, rows)


def _largest_sheet(drift: Drift) -> Sheet:
    rows = [
        (feature.name, moved.bucket, f"{moved.a:.2%}", f"{moved.b:.2%}", f"{moved.psi:.4f}")
        for feature in _by_psi(drift)
        for moved in feature.largest
    ]
    note = "The five buckets of each feature that add most to its PSI, with their shares of A and of B."
    return Sheet("What moved", ("feature", "bucket", "A", "B", "PSI"), rows, note, folded=True)


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _over_splits(shares: Iterable[float | None]) -> str:
    """Write percentages of several splits with one sign for all: 1.0 / 1.2 / – %."""
    return " / ".join("–" if share is None else f"{100 * share:.1f}" for share in shares) + " %"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _significant(value: float | None) -> str:
    """Write three digits, and 0 for what rounding left of it."""
    return "–" if value is None else f"{value if abs(value) > 1e-6 else 0:.3g}"


def _rate(rate: Rate) -> str:
    return "–" if rate.rate is None else f"{rate.rate:.2%}"


def _counted(rate: Rate) -> str:
    return "–" if rate.rate is None else f"{rate.rate:.2%} of {rate.rows:,}"


def _interval(rate: Rate) -> str:
    return "–" if rate.interval is None else "{:.2%} to {:.2%}".format(*rate.interval)
