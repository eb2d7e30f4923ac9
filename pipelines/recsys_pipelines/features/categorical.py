"""Ids of a feature: kept as they are, or numbered by falling count in training."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from recsys_cython_ext import MISSING_ID, IdCounter, string_ids
from recsys_cython_ext.vocabulary import FIRST_CODE, UNKNOWN_CODE
from recsys_pipelines.encoding.vocabulary import (
    EXACT,
    ExactVocabulary,
    Vocabulary,
    codes_of,
    vocabulary_bytes,
    vocabulary_of,
)
from recsys_pipelines.features.base import Arrays, Feature, Fit
from recsys_pipelines.features.kept import kept_ids
from recsys_pipelines.features.plain import TextIds, one_array
from recsys_pipelines.sources.location import Place, located


@dataclass
class Categorical(Feature):
    """Ids of a feature: kept (`hash`), or numbered by falling count in training (`vocabulary`).

    The first id of the vocabulary has code FIRST_CODE. Missing has code 0; an id that is not in the vocabulary (rarer
    than min_count, or new) has code 1, or where `unknown` is "hash" the 64-bit hash of itself with the sign bit set.
    Codes are int32 where nothing else is among them, else int64. Of a vocabulary of fingerprints one id outside in
    `vocabulary.ONE_IN` has the code of an id inside.
    """

    name: str
    encoding: str
    multivalued: bool
    pooling: str
    full_codes: int  # codes of a vocabulary that holds every id of training, whatever the minimum count
    vocabulary: Vocabulary  # empty where ids are hashed
    unknown: str = "code"
    weighted: bool = False  # a second column `<name>:weights`, lists as long
    like: str | None = None  # the feature whose vocabulary this one reads, and does not hold itself

    def twin(self, name: str, pooling: str) -> "Categorical":
        """Return a feature of lists of the same ids, which reads this vocabulary and has no copy of it."""
        twin = copy(self)
        twin.name, twin.like, twin.pooling = name, self.name, pooling
        twin.multivalued, twin.weighted = True, False
        return twin

    @property
    def form(self) -> str:
        """The form of the vocabulary: exact, or fingerprint."""
        return self.vocabulary.form

    @property
    def ids(self) -> np.ndarray:
        """The ids of the vocabulary in code order, int64 [V]. Raises ValueError where it is of fingerprints."""
        if not isinstance(self.vocabulary, ExactVocabulary):
            raise ValueError(
                f"feature {self.name!r}: `form: fingerprint` keeps no ids, which are needed here: declare it with "
                "`form: exact`"
            )
        return self.vocabulary.ids

    @property
    def num_codes(self) -> int | None:
        """Number of codes, None when ids are hashed."""
        return None if self.encoding == "hash" else FIRST_CODE + len(self.vocabulary)

    @property
    def vocabulary_bytes(self) -> int:
        """Resident bytes of what gives ids their codes; none when ids are hashed, or it is another feature's."""
        return 0 if self.encoding == "hash" or self.like is not None else self.vocabulary.nbytes

    @property
    def full_vocabulary_bytes(self) -> int:
        """Resident bytes of an exact vocabulary of every id of training."""
        return 0 if self.like is not None else vocabulary_bytes(self.full_codes - FIRST_CODE, EXACT)

    @property
    def id_type(self) -> pa.DataType:
        """The type of encoded ids."""
        return pa.int32() if self.encoding == "vocabulary" and self.unknown == "code" else pa.int64()

    @property
    @override
    def columns(self) -> dict[str, pa.DataType]:
        if not self.multivalued:
            return {self.name: self.id_type}
        lists = {self.name: pa.list_(self.id_type)}
        return lists | {f"{self.name}:weights": pa.list_(pa.float32())} if self.weighted else lists

    @override
    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        array = one_array(table[self.name])
        if not self.multivalued:
            return {self.name: pa.array(self.encode_ids(array.to_numpy(zero_copy_only=False)))}
        values = pa.array(self.encode_ids(array.flatten().to_numpy(zero_copy_only=False)))
        # Of a slice, offsets begin anywhere, and flatten cuts the values to match.
        offsets = pc.subtract(array.offsets, array.offsets[0])
        lists = {self.name: pa.ListArray.from_arrays(offsets, values)}
        if self.weighted:
            weights = one_array(table[f"{self.name}:weights"])
            lists[f"{self.name}:weights"] = pa.ListArray.from_arrays(offsets, weights.flatten())
        return lists

    def is_unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Return which encoded ids are outside the vocabulary: bool, of the shape of `encoded`."""
        return encoded < 0 if self.unknown == "hash" else encoded == UNKNOWN_CODE

    def extended(self, counts: "CategoricalFit") -> "Categorical":
        """Return this vocabulary with the ids that `counts` now finds often enough behind its own, whose codes stay."""
        frequent = counts.vocabulary()
        new = frequent[self.vocabulary.positions(frequent) < 0]
        full = max(self.full_codes, FIRST_CODE + counts.num_ids)
        ids = np.concatenate([self.ids, new if self.encoding == "vocabulary" else new[:0]])
        return replace(self, full_codes=full, vocabulary=ExactVocabulary(ids))

    def ids_of(self, codes: np.ndarray, training: Arrays) -> dict[int, int]:
        """Return the ids of known codes, by code.

        Args:
            codes: Codes of ids, int [n].
            training: The ids and counts that the feature was fitted from. Where the vocabulary keeps no ids, the most
                frequent of these that has a code is taken for the code's own; a code that none has is left out.
        """
        if self.form == EXACT:
            return dict(zip(codes.tolist(), self.ids[codes - FIRST_CODE].tolist(), strict=True))
        ids = training["ids"][np.argsort(training["counts"], kind="stable")]
        codes_of_ids = FIRST_CODE + self.vocabulary.positions(ids)
        taken = np.isin(codes_of_ids, codes) & (ids != MISSING_ID)
        return dict(zip(codes_of_ids[taken].tolist(), ids[taken].tolist(), strict=True))  # the last one stays

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "encoding": self.encoding,
            "multivalued": self.multivalued,
            "pooling": self.pooling,
            "unknown": self.unknown,
            "full_codes": self.full_codes,
            "weighted": self.weighted,
            "like": self.like,
            **self.vocabulary.to_dict(),
        }

    @override
    def arrays(self) -> Arrays:
        return {} if self.like is not None else self.vocabulary.arrays()

    def encode_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return what the model reads of 64-bit ids [n]: codes, or the ids where they are hashed."""
        if self.encoding == "hash":
            return ids
        return codes_of(ids, self.vocabulary, self.unknown == "hash")


class CategoricalFit(Fit):
    """The counts of a feature's ids.

    Args:
        settings: The fields of `Categorical` that are declared.
        min_count: How often training must have an id that gets a code.
        fixed: A vocabulary that is declared: integers, or the path of a text file (`config.CategoricalConfig`).
        source: The column whose values that file holds.
        keep: The folder of the ids that a vocabulary may hold.
        form: What the vocabulary is held in: exact, or fingerprint.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        min_count: int,
        fixed: range | str | None = None,
        source: str = "",
        keep: str | None = None,
        form: str = EXACT,
    ) -> None:
        self._settings = settings
        self._min_count = min_count
        self._fixed = fixed
        self._source = source
        self._keep = keep
        self._form = form
        self._counter = IdCounter()
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # ids and counts of the counter

    @override
    def add(self, table: pa.Table) -> None:
        self._sorted = None
        for chunk in table[self._settings["name"]].chunks:
            values = chunk.flatten() if self._settings["multivalued"] else chunk
            self._counter.add(values.to_numpy(zero_copy_only=False))

    @override
    def arrays(self) -> Arrays:
        ids, counts = self._result()
        return {"ids": ids, "counts": counts}

    @override
    def merge(self, arrays: Arrays) -> None:
        self._sorted = None
        self._counter.add_counts(arrays["ids"], arrays["counts"])

    @property
    def is_fixed(self) -> bool:
        """Whether the vocabulary is declared."""
        return self._fixed is not None

    @property
    def num_ids(self) -> int:
        """Number of distinct ids, without the missing one."""
        ids = self._result()[0]
        return len(ids) - int(MISSING_ID in ids[:1])  # the smallest integer comes first

    def vocabulary(self, min_count: int | None = None) -> np.ndarray:
        """Return the ids [V] seen at least `min_count` times, and to be kept, by falling count, then by rising id.

        Without a minimum count it is the declared one. Raises SourceError for a file of ids to keep that cannot be used.
        """
        ids, counts = self._allowed()
        frequent = counts >= (min_count or self._min_count)
        ids, counts = ids[frequent], counts[frequent]
        return ids[np.argsort(-counts, kind="stable")]

    def frequencies(self) -> np.ndarray:
        """Return how often each id was seen that a vocabulary may hold, whatever its minimum count: int64 [n], rising.

        Raises SourceError as `vocabulary` does.
        """
        return np.sort(self._allowed()[1])

    @override
    def fitted(self, text: Mapping[str, TextIds]) -> Categorical:
        """Return the fitted feature. Raises ValueError for a vocabulary or a file of ids that cannot be used."""
        full = FIRST_CODE + self.num_ids
        if self._fixed is not None:
            ids = self._fixed_ids(text)
            full = FIRST_CODE + len(ids)
        elif self._settings["encoding"] == "hash":
            ids = np.empty(0, np.int64)
        else:
            ids = self.vocabulary()
        return Categorical(**self._settings, full_codes=full, vocabulary=vocabulary_of(ids, self._form))

    def _allowed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and counts without the missing one, and without those that are not to be kept."""
        ids, counts = self._result()
        allowed = ids != MISSING_ID
        if self._keep is not None:
            allowed &= np.isin(ids, kept_ids(self._keep, self._settings["name"]))
        return ids[allowed], counts[allowed]

    def _result(self) -> tuple[np.ndarray, np.ndarray]:
        if self._sorted is None:
            self._sorted = self._counter.result()
        return self._sorted

    def _fixed_ids(self, text: Mapping[str, TextIds]) -> np.ndarray:
        if isinstance(self._fixed, range):
            return np.array(self._fixed, np.int64)
        path = located(self._fixed)  # type: ignore[arg-type]
        lines = vocabulary_lines(path)
        if not text.get(self._source, True):
            return _integers(lines, path)
        try:
            ids = string_ids(pa.array(lines, pa.string()))
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise ValueError(f"{path}: not UTF-8 text ({error}): write the vocabulary again") from None
        return _once(ids, lines, path)


def vocabulary_lines(path: Place) -> list[str]:
    """Return the lines of a vocabulary file, one value each; what is not UTF-8 is in surrogates. Raises OSError."""
    with located(path).open("rb") as file:
        content = file.read().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n")
    return [line.removesuffix("\r") for line in content.decode(errors="surrogateescape").split("\n")]


def _integers(lines: list[str], path: Any) -> np.ndarray:
    ids = []
    for number, line in enumerate(lines, 1):
        try:
            value = int(line)
        except ValueError:
            value = MISSING_ID
        if value in (MISSING_ID, 2**63) or not MISSING_ID < value < 2**64:
            raise ValueError(
                f"{path}, line {number}: {line!r} is no 64-bit integer that can be an id, and the column holds "
                "integers: write one a line"
            )
        ids.append((value + 2**63) % 2**64 - 2**63)  # as unsigned columns are read
    return _once(np.array(ids, np.int64), lines, path)


def _once(ids: np.ndarray, lines: list[str], path: Any) -> np.ndarray:
    unique, first = np.unique(ids, return_index=True)
    if len(unique) < len(ids):
        number = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        raise ValueError(f"{path}, line {number + 1}: {lines[number]!r} stands there twice: remove one line")
    return ids
