"""The source columns of a request: what each holds, in words, and an example that features read."""

import dataclasses
import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

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


def columns_of(inputs: Sequence[Input]) -> list[Column]:
    """Return the columns that features read, each once, described by the reading that takes the fewest values."""
    readings = [reading for one in inputs for reader in one.readers.values() for reading in _readings(reader)]
    columns: dict[str, Column] = {}
    for _, column in sorted(readings, key=lambda reading: reading[0]):
        columns.setdefault(column.name, column)
    return [columns[name] for name in dict.fromkeys(column.name for _, column in readings)]


def names_of(one: Input) -> list[str]:
    """Return the names of the columns that a feature reads."""
    return list(dict.fromkeys(name for reader in one.readers.values() for name in reader.columns))


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
