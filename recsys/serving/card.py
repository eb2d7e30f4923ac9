"""The model card of an exported folder: what it is, how good, how large, what it reads, and how it is opened.

What comes from data or settings is escaped: a name is text, whatever marks of Markdown or HTML it holds.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from recsys.evaluation.arms.compare import Interval, compare
from recsys.serving.columns import columns_of, names_of
from recsys.training.run import Run
from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.version import __version__
from recsys_pipelines.preparation.prepared import ManifestError, Prepared
from recsys_pipelines.request.inputs import BucketsInput, CategoricalInput, Input, NumericInput
from recsys_tables.bytes import ResidentBytes
from recsys_tables.serving.artefact import FORMAT_VERSION

CARD = "README.md"
REPLICATES = 200  # of the bootstrap
MOST_ROWS = 1_000_000  # that are resampled: more take minutes, and their intervals are narrow
LEVEL = 0.95
_PLAIN = re.compile(r"[\w.:@%+-]+")
NO_NETWORK = (
    "It was exported without its network, as onnx and onnxscript were missing: only its tables can be opened."
)


def model_card(
    run: Run, inputs: Sequence[Input], resident: ResidentBytes, about: Mapping[str, Any], *, servable: bool
) -> str:
    """Return the card of an exported run, as Markdown.

    Args:
        run: The run.
        inputs: What its features are made of in a request.
        resident: Bytes of what was exported.
        about: What was asked for, as the manifest has it: `dtype`, `pca_width` and `checkpoint`.
        servable: Whether the network is beside the tables.
    """
    sections = {
        "": _what_it_is(run, about),
        "How to open it": _opened(inputs) if servable else NO_NETWORK,
        "Quality": _quality(run),
        "Bytes": _bytes(run, resident),
        "Data": _data(run),
        "Features": _features(inputs),
        "Missing and unknown": _rules(inputs),
        "Versions": _versions(run, about),
    }
    parts = [f"## {title}\n\n{body}" if title else body for title, body in sections.items()]
    return f"# {text(run.config.name)}\n\n" + "\n\n".join(parts) + "\n"


def text(value: str) -> str:
    """Return text as Markdown that shows it: a plain name as code, else all that could be a mark as its number."""
    return f"`{value}`" if _PLAIN.fullmatch(value) else escaped(value)


def escaped(value: str) -> str:
    """Return text with all that is no letter, figure or space as its number, which no mark begins with."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in value)


def _what_it_is(run: Run, about: Mapping[str, Any]) -> str:
    tables = run.config.tables
    narrowed = "" if about["pca_width"] is None else f", rows narrowed to {about['pca_width']} by PCA"
    return (
        f"A model of click probabilities that `recsys export` wrote: network {text(run.config.model.name)} over embedding "
        f"tables of width {tables.embedding_dim} by the scheme {text(tables.scheme)}, stored in "
        f"{about['dtype']}{narrowed}. It needs no torch."
    )


def _opened(inputs: Sequence[Input]) -> str:
    example = {column.name: column.example for column in columns_of(inputs)}
    lines = "".join(f"    {_literal(name)}: {_literal(value)},\n" for name, value in example.items())
    return (
        "In this folder, with `pip install 'recsys-embedding-tables[serve]'`:\n\n"
        "```python\nfrom recsys.serving import Predictor\n\n"
        'predictor = Predictor.open(".")\n'
        f"request = {{\n{lines}}}\n"
        "probability = predictor.predict(request)  # [1]; a list of such dicts, an Arrow table or a Polars frame go too\n"
        "```\n\n"
        "```console\nrecsys predict . new.parquet --out scores.parquet\nrecsys serve .\n```"
    )


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _quality(run: Run) -> str:
    metrics = run.metrics["test"]
    intervals = _intervals(run)
    rows = [
        (
            text(name),
            "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5f}",
            "{:.5f} to {:.5f}".format(*intervals[name]) if name in intervals else "–",
        )
        for name, value in metrics.items()
    ]
    note = (
        "Measured by the run on its test rows, before its tables were stored as they are here; `recsys export --check` "
        "measures what was stored. Intervals are a bootstrap over test rows, or users where the log has them, of this one "
        f"training: another seed is not in them. Above {MOST_ROWS:,} rows there are none."
    )
    return _table(("metric", "test", f"{LEVEL:.0%} interval"), rows) + "\n\n" + note


def _intervals(run: Run) -> dict[str, Interval]:
    """Return intervals of the run's test metrics, by name; none where its rows do not allow any."""
    rows = run.predictions()
    if rows.num_rows > MOST_ROWS:
        return {}
    users = rows["user_id"].to_numpy() if "user_id" in rows.column_names else None
    arms = {"run": rows["prediction"].to_numpy()[None]}
    try:
        compared = compare(arms, rows["label"].to_numpy(), users, replicates=REPLICATES, level=LEVEL)
    except ValueError:  # labels of one class
        return {}
    return {name: estimate.interval for name, estimate in compared.arms[0].metrics.items()}


def _bytes(run: Run, resident: ResidentBytes) -> str:
    by_kind = resident.to_dict()
    kinds = [kind for kind, size in by_kind.items() if size and kind not in ("total", "serving")]
    table = _table(("kind", "resident bytes"), [(kind, f"{by_kind[kind]:,}") for kind in [*kinds, "serving"]])
    return f"{table}\n\nAbove the tables is a network of {run.metrics['bytes']['network']:,} bytes."


def _data(run: Run) -> str:
    split = run.config.data.split
    by = f"Rows were split by {split.by}."
    try:
        prepared = run.prepared()
    except ManifestError:
        return f"{by} The prepared data ({text(run.prepared_path.name)}) were not there any more when it was exported."
    return f"{by} The digest of the prepared data is `{prepared.digest}`.\n\n{_splits(prepared)}"


def _splits(prepared: Prepared) -> str:
    counts = prepared.manifest.row_counts_by_split
    rows = [(name, f"{of['rows']:,}", f"{of['positives']:,}") for name, of in counts.items()]
    return _table(("split", "rows", "clicks"), rows)


def _features(inputs: Sequence[Input]) -> str:
    features = [
        (text(one.name), _kind(one), ", ".join(text(name) for name in names_of(one))) for one in inputs
    ]
    columns = [(text(column.name), escaped(column.type)) for column in columns_of(inputs)]
    return (
        _table(("feature", "kind", "columns"), features)
        + "\n\n"
        + _table(("column", "what a request has there"), columns)
    )


def _kind(one: Input) -> str:
    if not isinstance(one, CategoricalInput):
        return {"buckets": "bucket of a number", "numeric": "number", "statistic": "statistics of an id"}[
            one.kind
        ]
    lists = "list of ids" if one.reader.many else "id"
    if one.like is not None:
        return f"{lists}, by the vocabulary of {text(one.like)}"
    if one.vocabulary is None:
        return f"{lists}, hashed"
    return f"{lists}, by a vocabulary" + (", unknown ones hashed" if one.hash_unknown else "")


def _rules(inputs: Sequence[Input]) -> str:
    rules = ["What is absent, null or NaN is missing."]
    ids = [one for one in inputs if isinstance(one, CategoricalInput)]
    if any(not one.reader.many for one in ids) or any(isinstance(one, BucketsInput) for one in inputs):
        rules.append("A missing id or bucket is a value of its own.")
    if any(one.reader.many for one in ids):
        rules.append("A missing list is empty, and its vector is zero.")
    if any(isinstance(one, NumericInput) for one in inputs):
        rules.append("A missing number is the mean of training.")
    if any(one.vocabulary is not None and not one.hash_unknown for one in ids):
        rules.append("An id that its vocabulary has not shares one row with all others of that kind.")
    rules.append(
        "A column that no feature reads, or a value that is not what was declared, is refused by an error that names row, "
        "column, value and what is expected."
    )
    return " ".join(rules)


def _versions(run: Run, about: Mapping[str, Any]) -> str:
    rows = [
        ("recsys-embedding-tables", __version__),
        ("torch, by which it was exported", version("torch")),
        ("format of the folder", str(FORMAT_VERSION)),
        ("definition of ids and rows", str(HASH_VERSION)),
        ("checkpoint", f"`{about['checkpoint']}`"),
        ("seed", str(run.config.training.seed)),
    ]
    return _table(("of", "version"), rows)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
