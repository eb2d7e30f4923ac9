"""What a server says of itself: its version, what a request may hold, and an example that it answers."""

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from recsys.serving.server.limits import Limits
from recsys.serving.server.versions import Served, Versions
from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.version import __version__
from recsys_pipelines.request.inputs import Input
from recsys_pipelines.request.readers import (
    CrossReader,
    DatePartReader,
    IdReader,
    IdsReader,
    NumberReader,
    PrefixesReader,
    Reader,
    SquaredLogReader,
    TokensReader,
    WeightsReader,
)
from recsys_pipelines.request.values import TextIds

_MOMENT = dt.datetime(2024, 5, 17, 9, 30, 38, tzinfo=dt.UTC)
_UUID = "12345678-1234-5678-1234-567812345678"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a request: what it holds, in words, and an example."""

    name: str
    type: str
    example: Any


def describe(served: Served, versions: Versions, limits: Limits) -> dict[str, Any]:
    """Return what `/metadata` answers."""
    artefact = served.predictor.artefact
    inputs = served.predictor.transform.inputs
    columns = columns_of(inputs)
    return {
        "model": served.predictor.model.name,
        "version": served.version,
        "name": served.name,
        "served_since": served.since,
        "available": versions.source.names(),
        "refused": None if versions.refused is None else dataclasses.asdict(versions.refused),
        "program": __version__,
        "hash_version": HASH_VERSION,
        "dtype": artefact.dtype,
        "bytes": artefact.bytes.to_dict(),
        "features": [
            {
                "name": one.name,
                "kind": one.kind,
                "columns": list(
                    dict.fromkeys(name for reader in one.readers.values() for name in reader.columns)
                ),
            }
            for one in inputs
        ],
        "columns": [{"name": column.name, "type": column.type} for column in columns],
        "example": {column.name: column.example for column in columns},
        "limits": dataclasses.asdict(limits),
    }


def columns_of(inputs: Sequence[Input]) -> list[Column]:
    """Return the columns that features read, each once, described by the reading that takes the fewest values."""
    readings = [reading for one in inputs for reader in one.readers.values() for reading in _readings(reader)]
    columns: dict[str, Column] = {}
    for _, column in sorted(readings, key=lambda reading: reading[0]):
        columns.setdefault(column.name, column)
    return [columns[name] for name in dict.fromkeys(column.name for _, column in readings)]


def _readings(reader: Reader) -> Iterator[tuple[int, Column]]:
    """Yield the columns of a reader, after how particular it is: a time is also text, and text is not always a time."""
    match reader:
        case DatePartReader(column=name, format=form):
            yield 0, Column(name, *_time(form))
        case IdsReader(column=name, text=text, separator=separator):
            word, example = _id(text)
            if separator is None or not text:  # pieces of a text are text
                yield 1, Column(name, f"list: {word}", [example])
            else:
                yield 1, Column(name, f"list: {word}, or text with {separator!r} between", str(example))
        case WeightsReader(column=name, separator=separator):
            more = "" if separator is None else f", or text with {separator!r} between"
            yield 1, Column(name, f"list: number for each of {reader.ids}{more}", [1.0])
        case CrossReader(columns=names, texts=texts):
            for name, text in zip(names, texts, strict=True):
                yield 2, Column(name, *_id(text))
        case IdReader(column=name, text=text):
            yield 2, Column(name, *_id(text))
        case NumberReader(column=name) | SquaredLogReader(column=name):
            yield 3, Column(name, "number", 1)
        case TokensReader(column=name) | PrefixesReader(column=name):
            yield 3, Column(name, "text", "text")


def _id(text: TextIds | None) -> tuple[str, Any]:
    if text == "uuid":
        return "text of a UUID", _UUID
    return ("text", "a") if text else ("integer", 1)


def _time(form: str) -> tuple[str, Any]:
    if form in ("seconds", "milliseconds"):
        return f"integer: {form} since 1970", int(_MOMENT.timestamp()) * (1 if form == "seconds" else 1000)
    pattern = "%Y-%m-%d %H:%M:%S" if form == "iso" else form
    return f"text: a time as {'ISO 8601' if form == 'iso' else form}", _MOMENT.strftime(pattern)
