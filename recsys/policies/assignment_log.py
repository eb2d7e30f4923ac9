"""Read the assignment log of an online A/B test, in any format of the table source, for `evaluation.online` to check."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from recsys.evaluation.online.log import Assignments, Target, assignments, require_columns
from recsys_pipelines.sources.whole import WholeFile


def read_assignments(
    path: Path | str,
    user: str,
    variant: str,
    targets: Sequence[Target],
    control: str | None = None,
    covariate: str | None = None,
    day: str | None = None,
) -> Assignments:
    """Read the columns that are named and check them as `assignments` does.

    Of a text file, users and variants are text as it stands, metrics and the covariate numbers, and days as
    `evaluation.days` reads them. Arguments are those of `assignments`.

    Raises:
        ValueError: As of `WholeFile` and of `assignments`, with the name of the file.
    """
    file = WholeFile(Path(path))
    numbers = {column for target in targets for column in target.columns}
    if covariate is not None:
        numbers.add(covariate)
    names = dict.fromkeys([user, variant, *([] if day is None else [day]), *sorted(numbers)])
    try:
        require_columns(file.names, list(names))
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    table = file.read(list(names))
    columns = {
        name: file.numbers(name, column.combine_chunks()) if file.text and name in numbers else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    log = pl.from_arrow(pa.table(columns))
    assert isinstance(log, pl.DataFrame)
    try:
        return assignments(log, user, variant, targets, control, covariate, day)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
