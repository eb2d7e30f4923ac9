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

from recsys.evaluation.off_policy.data import Log, Target, bandit_log, probabilities
from recsys_pipelines.sources.table import TEXT, ending
from recsys_pipelines.sources.whole import WholeFile

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
    path: Path,
    columns: Mapping[str, str | None] | None = None,
    where: Sequence[str] = (),
    rows: np.ndarray | None = None,
) -> Log:
    """Read and check a log. `columns`: names by role, guessed where None; `where`: column=value, all of which must hold;
    `rows`: numbers of the rows to keep, None for all.

    Errors (ValueError): no such file, column or row; what `bandit_log` refuses. Rows count from 0, without the header.
    """
    frame = read_table(path)
    names = {
        role: column_named(frame, role, (columns or {}).get(role), path, GUESSES, REQUIRED)
        for role in GUESSES
    }
    frame = frame.with_row_index(NUMBER)
    if rows is not None:
        frame = frame.filter(pl.Series(np.isin(frame[NUMBER].to_numpy(), rows)))
    frame = _filtered(frame, where, path)
    source = path.name + (f" where {' and '.join(where)}" if where else "")
    numbers = frame[NUMBER].to_numpy()

    def values(role: str) -> np.ndarray | None:
        name = names[role]
        if name is None:
            return None
        column = frame[name]
        if role in ("reward", "propensity"):
            return numbers_of(column, numbers, source)
        refuse_missing(column, numbers, source)
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
        source=source,
        numbers=numbers,
        columns={role: name or GUESSES[role][0] for role, name in names.items()},
    )


def read_policy(path: Path, log: Log) -> Target:
    """Read a target's probabilities for the rows of `log`, matched by row_id; rows of other logs may be there too.

    Errors (ValueError): no row_id, row ids that repeat or lack, missing or improper probabilities, an action that the log
    does not have but the target shows.
    """
    frame = read_table(path)
    ids = column_named(frame, "row_id", "row_id", path, GUESSES, REQUIRED)
    others = [name for name in frame.columns if name not in ("row_id", "probability")]
    if ids is None or ("probability" not in frame.columns and not others):
        raise ValueError(
            f"{path.name}: has columns {frame.columns}: needs row_id, and probability or actions"
        )
    refuse_missing(frame["row_id"], np.arange(len(frame)), path.name)
    repeated = frame.filter(pl.col("row_id").is_duplicated())
    if len(repeated):
        raise ValueError(
            f"{path.name}: row_id {repeated['row_id'][0]} occurs more than once: one line for each row"
        )
    wanted = pl.DataFrame({"row_id": log.row_ids.astype(str), "number": np.arange(log.rows)})
    frame = frame.with_row_index(NUMBER).with_columns(pl.col("row_id").cast(pl.String))
    joined = wanted.join(frame, on="row_id", how="left", maintain_order="left")
    lacking = joined.filter(pl.col(NUMBER).is_null())["row_id"]
    if len(lacking):
        some = ", ".join(lacking.head(5).to_list())
        raise ValueError(
            f"{path.name}: lacks {len(lacking)} row ids of {log.source}, the first are {some}: give every row its "
            "probability"
        )
    numbers = joined[NUMBER].to_numpy()
    logged = numbers_of(joined["probability"], numbers, path.name) if "probability" in frame.columns else None
    if not others:
        return probabilities(log, logged, name=path.name)
    codes = {str(name): code for code, name in enumerate(log.action_names.tolist())}
    table = np.zeros((log.rows, len(codes)))
    for name in others:
        column = numbers_of(joined[name], numbers, path.name)
        if name in codes:
            table[:, codes[name]] = column
        elif column.any():
            i = int((column != 0).argmax())
            raise ValueError(
                f"{path.name}: row {numbers[i]}: {name} is {column[i]}, but {log.source} has no action {name}: no support, "
                "and no reweighting can tell its reward"
            )
    return probabilities(log, logged, table, name=path.name)


def read_table(path: Path) -> pl.DataFrame:
    """Read every column of a file, as text where it is a text file. Errors (ValueError): as those of `WholeFile`."""
    frame = pl.from_arrow(WholeFile(path).read())
    assert isinstance(frame, pl.DataFrame)
    return frame


def is_text(path: Path) -> bool:
    """Whether the name is that of a text file."""
    return ending(path) in TEXT


def _filtered(frame: pl.DataFrame, where: Sequence[str], path: Path) -> pl.DataFrame:
    for condition in where:
        name, equals, value = condition.partition("=")
        if not equals or name not in frame.columns:
            raise ValueError(
                f"{path.name}: cannot keep rows where {condition!r}: write column=value, with a column of "
                f"{_some(frame.columns)}"
            )
        left = frame.filter(pl.col(name).cast(pl.String) == value)
        if not len(left):
            held = frame[name].unique().sort().cast(pl.String).to_list()
            raise ValueError(f"{path.name}: no row has {condition}: {name} is {_some(held)}")
        frame = left
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
    """The column that plays a role: as named, or the first guess that is there; None where it may be absent, and is."""
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


def numbers_of(column: pl.Series, numbers: np.ndarray, source: str) -> np.ndarray:
    """A column as float64 without missing values or text; `numbers` are those of its rows in `source`."""
    refuse_missing(column, numbers, source)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String)):
        raise ValueError(f"{source}: {column.name} is {column.dtype}, not a number: convert the column")
    cast = column.cast(pl.Float64, strict=False)
    if cast.null_count():
        i = int(cast.is_null().arg_max() or 0)
        raise ValueError(
            f"{source}: row {numbers[i]}: {column.name} is {column[i]!r}, not a number: write it as 12 or 0.5"
        )
    return cast.to_numpy()


def refuse_missing(column: pl.Series, numbers: np.ndarray, source: str) -> None:
    """Raise ValueError naming the first row without a value."""
    if column.null_count():
        i = int(column.is_null().arg_max() or 0)
        raise ValueError(f"{source}: row {numbers[i]}: {column.name} is missing: fill it in, or drop the row")


def _some(names: Sequence[str]) -> str:
    text = ", ".join(map(str, names[:8]))
    return text if len(names) <= 8 else f"{text}, … ({len(names)} in all)"
