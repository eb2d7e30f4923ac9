"""Read logs of bandits and files of target policies, in any format of the table source; columns named or guessed.

log     action, reward, propensity, and where there are such: position, user (rows of one are dependent), row_id
policy  row_id, probability (of the logged action), and where known one column per action, named like the action

Actions, positions, users and row ids of a text file are text, and those of two files are the same where their text is: the
integer 1 of Parquet is the 1 of a CSV file, and 01 is another.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recsys.evaluation.off_policy.log import Log, Rows, bandit_log
from recsys.evaluation.off_policy.target import Target, probabilities
from recsys_pipelines.sources.table import TEXT, ending
from recsys_pipelines.sources.whole import FIRST_LINE, WholeFile

GUESSES: dict[str, tuple[str, ...]] = {
    "action": ("action", "item_id"),
    "reward": ("reward", "click", "label"),
    "propensity": ("propensity", "propensity_score", "pscore"),
    "position": ("position",),
    "user": ("user", "user_id"),
    "row_id": ("row_id",),
}
REQUIRED = ("action", "reward")  # the want of a propensity is told by `bandit_log`
NUMBER = "row number in the file"


def read_log(
    path: Path | str,
    columns: Mapping[str, str | None] | None = None,
    where: Sequence[str] = (),
    rows: np.ndarray | None = None,
) -> Log:
    """Read and check a log. Rows count from 0, without the header.

    Args:
        path: The file.
        columns: Names of columns by role, guessed where None.
        where: Conditions `column=value`, all of which must hold of a row.
        rows: Numbers of the rows to keep; None for all.

    Raises:
        ValueError: There is no such file, column or row, or `bandit_log` refuses the log.
    """
    path = Path(path)
    frame = read_table(path)
    names = {
        role: column_named(frame, role, (columns or {}).get(role), path, GUESSES, REQUIRED)
        for role in GUESSES
    }
    frame = frame.with_row_index(NUMBER)
    if rows is not None:
        frame = frame.filter(pl.Series(np.isin(frame[NUMBER].to_numpy(), rows)))
    frame = _filtered(frame, where, path)
    conditions = f" where {' and '.join(where)}" if where else ""
    used = rows_of(path, frame[NUMBER].to_numpy(), conditions)

    def values(role: str) -> np.ndarray | None:
        name = names[role]
        if name is None:
            return None
        column = frame[name]
        if role in ("reward", "propensity"):
            return numbers_of(column, used)
        refuse_missing(column, used)
        return column.to_numpy()

    actions, rewards = values("action"), values("reward")
    assert actions is not None
    assert rewards is not None
    return bandit_log(
        actions,
        rewards,
        values("propensity"),
        values("position"),
        values("user"),
        values("row_id"),
        source=used.source,
        numbers=used.numbers,
        columns={role: name or GUESSES[role][0] for role, name in names.items()},
        first_line=used.first_line,
    )


def read_policy(path: Path | str, log: Log) -> Target:
    """Read a target's probabilities for the rows of `log`, matched by row_id; rows of other logs may be in the file too.

    Raises:
        ValueError: There is no row_id, row ids repeat or lack, probabilities are missing or improper, or the target shows
            an action that the log does not have.
    """
    path = Path(path)
    frame = read_table(path)
    ids = column_named(frame, "row_id", "row_id", path, GUESSES, REQUIRED)
    actions = [name for name in frame.columns if name not in ("row_id", "probability")]
    if ids is None or ("probability" not in frame.columns and not actions):
        raise ValueError(
            f"{path.name}: has columns {frame.columns}: needs row_id, and probability or actions"
        )
    matched = _matched(frame, path, log)
    rows = rows_of(path, matched[NUMBER].to_numpy())
    logged = numbers_of(matched["probability"], rows) if "probability" in frame.columns else None
    if not actions:
        return probabilities(log, logged, name=path.name)
    return probabilities(log, logged, _distributions(matched, actions, rows, log), name=path.name)


def _matched(frame: pl.DataFrame, path: Path, log: Log) -> pl.DataFrame:
    """Return the rows of a policy's file in the order of the log, with their numbers in the file."""
    refuse_missing(frame["row_id"], rows_of(path, np.arange(len(frame))))
    repeated = frame.filter(pl.col("row_id").is_duplicated())
    if len(repeated):
        raise ValueError(
            f"{path.name}: row_id {repeated['row_id'][0]} occurs more than once: one line for each row"
        )
    logged = pl.DataFrame({"row_id": log.row_ids.astype(str), "number": np.arange(log.rows)})
    frame = frame.with_row_index(NUMBER).with_columns(pl.col("row_id").cast(pl.String))
    matched = logged.join(frame, on="row_id", how="left", maintain_order="left")
    lacking = matched.filter(pl.col(NUMBER).is_null())["row_id"]
    if len(lacking):
        some = ", ".join(lacking.head(5).to_list())
        raise ValueError(
            f"{path.name}: lacks {len(lacking)} row ids of {log.source}, the first are {some}: give every row its "
            "probability"
        )
    return matched


def _distributions(matched: pl.DataFrame, actions: Sequence[str], rows: Rows, log: Log) -> np.ndarray:
    """Return the probabilities of the log's actions [n, A] from the columns named like `actions`."""
    codes = {str(name): code for code, name in enumerate(log.action_names.tolist())}
    table = np.zeros((log.rows, len(codes)))
    for name in actions:
        column = numbers_of(matched[name], rows)
        if name in codes:
            table[:, codes[name]] = column
        elif column.any():
            i = int((column != 0).argmax())
            raise ValueError(
                f"{rows.place(i)}: {name} is {column[i]}, but {log.source} has no action {name}: no support, "
                "and no reweighting can tell its reward"
            )
    return table


def read_table(path: Path | str) -> pl.DataFrame:
    """Read every column of a file, as text where it is a text file.

    Raises:
        ValueError: As of `WholeFile`.
    """
    frame = pl.from_arrow(WholeFile(Path(path)).read())
    assert isinstance(frame, pl.DataFrame)
    return frame


def is_text(path: Path | str) -> bool:
    """Return whether the name is that of a text file."""
    return ending(Path(path)) in TEXT


def rows_of(path: Path, numbers: np.ndarray, conditions: str = "") -> Rows:
    """Return rows of a file by their numbers [n] in it; `conditions` under which they were chosen follow its name."""
    return Rows(path.name + conditions, numbers, FIRST_LINE if is_text(path) else None)


def _filtered(frame: pl.DataFrame, where: Sequence[str], path: Path) -> pl.DataFrame:
    """Return the rows for which all conditions hold; there must be some."""
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals or name not in frame.columns:
            raise ValueError(
                f"{path.name}: cannot keep rows where {condition!r}: write column=value, with a column of "
                f"{_some(frame.columns)}"
            )
        matches = frame.filter(pl.col(name).cast(pl.String) == value)
        if not len(matches):
            values = frame[name].unique().sort().cast(pl.String).to_list()
            raise ValueError(f"{path.name}: no row has {condition}: {name} is {_some(values)}")
        frame = matches
    if not len(frame):
        raise ValueError(f"{path.name}: has no rows")
    return frame


def column_named(
    frame: pl.DataFrame,
    role: str,
    name: str | None,
    path: Path,
    guesses: Mapping[str, Sequence[str]],
    required: Sequence[str],
) -> str | None:
    """Return the column that plays a role: the one named, or the first guess the file has; None where it may and does lack.

    Raises:
        ValueError: The named column, or one of a required role, is not in the file.
    """
    if name is not None and name not in frame.columns:
        raise ValueError(f"{path.name}: has no column {name!r} ({role}), but {_some(frame.columns)}")
    if name is None:
        name = next((guess for guess in guesses[role] if guess in frame.columns), None)
    if name is None and role in required:
        raise ValueError(
            f"{path.name}: has no column {' or '.join(guesses[role])}, but {_some(frame.columns)}: name the {role} "
            f"with --{role}"
        )
    return name


def numbers_of(column: pl.Series, rows: Rows) -> np.ndarray:
    """Return a column as float64; refuse missing values and text that is no number."""
    refuse_missing(column, rows)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String)):
        raise ValueError(f"{rows.source}: {column.name} is {column.dtype}, not a number: convert the column")
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count():
        i = int(numbers.is_null().arg_max() or 0)
        raise ValueError(
            f"{rows.place(i)}: {column.name} is {column[i]!r}, not a number: write it as 12 or 0.5"
        )
    return numbers.to_numpy()


def refuse_missing(column: pl.Series, rows: Rows) -> None:
    """Raise ValueError naming the first row without a value."""
    if column.null_count():
        i = int(column.is_null().arg_max() or 0)
        raise ValueError(f"{rows.place(i)}: {column.name} is missing: fill it in, or drop the row")


def _some(names: Sequence[str]) -> str:
    """List the first eight names, and say how many there are."""
    text = ", ".join(map(str, names[:8]))
    return text if len(names) <= 8 else f"{text}, … ({len(names)} in all)"
