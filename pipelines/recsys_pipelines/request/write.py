"""Fitted features are written as the folder that `transform.RequestTransform` opens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.encoding.vocabulary import ExactVocabulary, FingerprintVocabulary
from recsys_pipelines.features import Buckets, Categorical, Features, Numeric, Statistic
from recsys_pipelines.features.base import Feature
from recsys_pipelines.features.convert import ColumnSpec, Spec
from recsys_pipelines.features.derive import Cross, DatePart, Events, Prefixes, Tokens, Weights
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.request.inputs import (
    BucketsInput,
    CategoricalInput,
    Input,
    NumericInput,
    StatisticInput,
    VocabularyInput,
)
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
from recsys_pipelines.request.transform import FORMAT_VERSION, REQUEST, SavedRequest

Texts = Mapping[str, TextIds]


def write_request(features: Features, folder: str | Path) -> None:
    """Write the inputs of `features` and their arrays into an empty folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    specs = features.serving_specs()
    readers = {name: _reader(spec, features.text) for name, spec in specs.items()}
    inputs: list[Input] = []
    for place, feature in enumerate(features.features):
        one, arrays = _input(feature, readers)
        inputs.append(one)
        for name, array in arrays.items():
            np.save(folder / f"{place}.{name}.npy", array, allow_pickle=False)
    saved = SavedRequest(format_version=FORMAT_VERSION, hash_version=HASH_VERSION, inputs=inputs)
    write_manifest(saved, folder / REQUEST)


def _reader(spec: Spec, text: Texts) -> Reader:
    match spec:
        case ColumnSpec(column, "id"):
            return IdReader(column=column, text=text.get(column))
        case ColumnSpec(column, "ids"):
            return IdsReader(column=column, text=text.get(column), separator=spec.separator)
        case ColumnSpec(column, "number"):
            return NumberReader(column=column)
        case ColumnSpec(column, "squared_log"):
            return SquaredLogReader(column=column)
        case Cross(columns):
            return CrossReader(columns=columns, texts=tuple(text.get(column) for column in columns))
        case Tokens(column):
            return TokensReader(column=column, lowercase=spec.lowercase, ngrams=spec.ngrams, most=spec.most)
        case Prefixes(column):
            return PrefixesReader(column=column, lengths=spec.lengths)
        case DatePart(column):
            return DatePartReader(column=column, part=spec.part, format=spec.format)  # type: ignore[arg-type]
        case Events(name):
            values = text.get(spec.column)
            return IdsReader(column=name, text=values, separator=spec.separator, last=spec.length)
        case Weights():
            return WeightsReader(column=spec.column, ids=spec.ids, separator=spec.separator)
    raise TypeError(f"{spec!r} is read by nothing that serves requests")


def _input(feature: Feature, readers: Mapping[str, Reader]) -> tuple[Input, Mapping[str, np.ndarray]]:
    reader: Any = readers[feature.name]
    match feature:
        case Categorical():
            return _categorical(feature, readers)
        case Buckets():
            return BucketsInput(name=feature.name, reader=reader), feature.arrays()
        case Numeric():
            return NumericInput(reader=reader, **feature.to_dict()), {}
        case Statistic():
            index = {"keys": feature.table.keys, "index": feature.table.index}
            totals = {"total_rows": int(feature.total_rows), "total_clicks": int(feature.total_clicks)}
            one = StatisticInput(
                name=feature.name,
                reader=reader,
                of=feature.of,
                smoothing=feature.smoothing,
                seed=feature.table.seed,
                **totals,
            )
            return one, index | {"rows": feature.rows, "clicks": feature.clicks}
    raise TypeError(f"{feature!r} is read by nothing that serves requests")


def _categorical(
    feature: Categorical, readers: Mapping[str, Reader]
) -> tuple[CategoricalInput, Mapping[str, np.ndarray]]:
    weights: Any = readers[f"{feature.name}:weights"] if feature.weighted else None
    owns = feature.encoding != "hash" and feature.like is None
    declared, arrays = _vocabulary(feature.vocabulary) if owns else (None, {})
    one = CategoricalInput(
        name=feature.name,
        reader=readers[feature.name],
        weights=weights,
        hash_unknown=feature.unknown == "hash",
        vocabulary=declared,
        like=feature.like if feature.encoding != "hash" else None,
    )
    return one, arrays


def _vocabulary(vocabulary: Any) -> tuple[VocabularyInput, Mapping[str, np.ndarray]]:
    if isinstance(vocabulary, FingerprintVocabulary):
        function = vocabulary.function
        return VocabularyInput(form="fingerprint", shape=function.shape), {"slots": function.slots}
    assert isinstance(vocabulary, ExactVocabulary)
    table = vocabulary.table
    return VocabularyInput(form="exact", seed=table.seed), {"keys": table.keys, "index": table.index}
