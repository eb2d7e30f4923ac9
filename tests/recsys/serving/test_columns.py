"""The example of a request is read by every kind of reader."""

from typing import Any

import pytest

from recsys.serving.columns import columns_of
from recsys_pipelines.request.inputs import CategoricalInput
from recsys_pipelines.request.readers import (
    CrossReader,
    DatePartReader,
    IdReader,
    IdsReader,
    NumberReader,
    PrefixesReader,
    SquaredLogReader,
    TokensReader,
    WeightsReader,
)

READERS: list[Any] = [
    *(IdReader(column="a", text=text) for text in (True, False, None, "uuid")),
    *(
        IdsReader(column="a", text=text, separator=separator)
        for text in (True, False)
        for separator in (None, "|")
    ),
    NumberReader(column="a"),
    SquaredLogReader(column="a"),
    CrossReader(columns=("a", "b"), texts=(True, False)),
    TokensReader(column="a", lowercase=True, ngrams=2, most=9),
    PrefixesReader(column="a", lengths=(1, 2)),
    *(
        DatePartReader(column="a", part="hour", format=form)
        for form in ("iso", "seconds", "milliseconds", "%y%m%d%H")
    ),
]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.kind)
def test_an_example_is_read(reader: Any) -> None:
    examples = {
        column.name: column.example for column in columns_of([CategoricalInput(name="f", reader=reader)])
    }
    assert reader.read([examples[name] for name in reader.columns]) is not None


@pytest.mark.parametrize("separator", [None, "|"])
def test_weights_are_as_many_as_ids(separator: str | None) -> None:
    ids = IdsReader(column="a", text=True, separator=separator)
    weights = WeightsReader(column="w", ids="a", separator=separator)
    columns = columns_of([CategoricalInput(name="f", reader=ids, weights=weights)])
    assert weights.read([column.example for column in reversed(columns)]) == [1.0]


def test_a_column_of_two_readings_is_described_by_the_stricter_one() -> None:
    words = TokensReader(column="a", lowercase=True, ngrams=1, most=9)
    hour = DatePartReader(column="a", part="hour", format="iso")
    inputs = [CategoricalInput(name=name, reader=reader) for name, reader in (("w", words), ("h", hour))]
    (column,) = columns_of(inputs)
    assert column.type == "text: a time as ISO 8601"
    assert words.read([column.example])
