"""Columns computed from those a file stores: times from text, lists from "[1, 2]", years from titles."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, require


@dataclass(frozen=True)
class Derivation:
    """A column [B] made by `function` from the stored column `column` [B].

    Rows where `function` makes null of a value go to quarantine for `reason`; without one they stay.
    """

    column: str
    function: Callable[[pa.Array], pa.Array]
    reason: str | None = None


class Derived:
    """`file` with columns `derivations` (name -> how), which hide stored ones of the same name."""

    def __init__(self, file: File, derivations: Mapping[str, Derivation]) -> None:
        self.path = file.path
        self._file = file
        self._derivations = derivations
        require((how.column for how in derivations.values()), file.schema.names, file.path)
        types = {name: file.schema.field(name).type for name in file.schema.names}
        made = {name: how.function(pa.array([], types[how.column])).type for name, how in derivations.items()}
        self.schema = pa.schema({**types, **made})

    def chunks(
        self, columns: Sequence[str], quarantine: Quarantine, first_row: int = 0
    ) -> Generator[Chunk, None, int]:
        """As `File.chunks`."""
        columns = list(dict.fromkeys(columns))
        require(columns, self.schema.names, self.path)
        derived = {name: how for name, how in self._derivations.items() if name in columns}
        stored = [derived[name].column if name in derived else name for name in columns]
        chunks = self._file.chunks(stored, quarantine, first_row)
        while True:
            try:
                chunk = next(chunks)
            except StopIteration as end:
                return end.value
            yield _with_derived(chunk, columns, derived, quarantine)


def _with_derived(
    chunk: Chunk, columns: list[str], derived: Mapping[str, Derivation], quarantine: Quarantine
) -> Chunk:
    good = np.ones(len(chunk.rows), bool)
    made = {}
    for name, how in derived.items():
        raw = chunk.table[how.column].combine_chunks()
        made[name] = how.function(raw)
        if how.reason is not None:
            bad = np.asarray(pc.and_not(raw.is_valid(), made[name].is_valid()))
            chunk.report(bad & good, how.column, raw, how.reason, quarantine)
            good &= ~bad
    table = pa.table({name: made[name] if name in made else chunk.table[name] for name in columns})
    return chunk.with_table(table).keep(good)
