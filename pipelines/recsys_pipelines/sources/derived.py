"""Files made of others: columns computed from those a file stores (times from text, lists from "[1, 2]")."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, Part

Change = Callable[[Chunk, Quarantine], Chunk]


class Over(File):
    """Another file with other columns: its rows are those of `file`, and its chunks go through a function."""

    def __init__(self, file: File) -> None:
        self.path = file.path
        self._file = file

    @abstractmethod
    def change(self, columns: list[str]) -> tuple[list[str], Change]:
        """Return what to read of the file for `columns`, and what makes them of it."""

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        columns = list(dict.fromkeys(columns))
        self.require(columns)
        stored, changed = self.change(columns)
        for part in self._file.parts(stored, first_row):
            self.share_read = self._file.share_read
            yield part.then(changed)
        self.rows, self.is_piece = self._file.rows, self._file.is_piece

    @override
    def sampled(self, parts: int) -> File:
        return self._with_file(self._file.sampled(parts))

    @override
    def rows_by_metadata(self) -> int | None:
        return self._file.rows_by_metadata()

    @override
    def pieces(self) -> list[File]:
        return [self._with_file(piece) for piece in self._file.pieces()]

    @override
    def after(self, rows: int) -> File:
        return self._with_file(self._file.after(rows))

    def _with_file(self, file: File) -> File:
        piece = copy(self)
        piece._file, piece.is_piece = file, file.is_piece
        return piece


@dataclass(frozen=True)
class Derivation:
    """A column [B] made by `function` from the stored column `column` [B].

    Rows where `function` makes null of a value go to quarantine for `reason`; without one they stay.
    """

    column: str
    function: Callable[[pa.Array], pa.Array]
    reason: str | None = None


class Derived(Over):
    """A file with more columns, `derivations` by name, which hide stored ones of the same name."""

    def __init__(self, file: File, derivations: Mapping[str, Derivation]) -> None:
        super().__init__(file)
        self._derivations = derivations
        file.require(how.column for how in derivations.values())
        types = {name: file.schema.field(name).type for name in file.schema.names}
        made = {name: how.function(pa.array([], types[how.column])).type for name, how in derivations.items()}
        self.schema = pa.schema({**types, **made})
        self.repeated = {name: why for name, why in file.repeated.items() if name not in derivations}

    @override
    def change(self, columns: list[str]) -> tuple[list[str], Change]:
        derived = {name: how for name, how in self._derivations.items() if name in columns}
        stored = [derived[name].column if name in derived else name for name in columns]

        def with_derived(chunk: Chunk, quarantine: Quarantine) -> Chunk:
            return _with_derived(chunk, columns, derived, quarantine)

        return stored, with_derived


def _with_derived(
    chunk: Chunk, columns: list[str], derived: Mapping[str, Derivation], quarantine: Quarantine
) -> Chunk:
    good = np.ones(len(chunk.rows), bool)
    arrays = {}
    for name, how in derived.items():
        raw = chunk.table[how.column].combine_chunks()
        arrays[name] = how.function(raw)
        if how.reason is not None:
            bad = np.asarray(pc.and_not(raw.is_valid(), arrays[name].is_valid()))
            chunk.report(bad & good, how.column, raw, how.reason, quarantine)
            good &= ~bad
    table = pa.table({name: arrays[name] if name in arrays else chunk.table[name] for name in columns})
    return chunk.with_table(table).keep(good)
