"""Predictions to compare: finished runs, and files of anybody's model in any format that the table source reads.

An argument is `[NAME=]PATH`. A folder is a run, or holds runs `seed-*`, all of one arm; a run is called by its
configuration's name, a file by its own without the ending. Arguments of one name are seeds of one arm.

Columns of a file: row_id, label, prediction, and user_id where rows of one user are dependent; each may have another
name in the file (`Columns`). Further columns are read only where slices or the time ask for them. Of a text file, labels,
predictions and the time are read as what they must be, and all else stays text: 01 is another id than 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from recsys.comparison.slicing import times_of
from recsys_pipelines.sources.table import ENDINGS
from recsys_pipelines.sources.whole import WholeFile, bare_name

if TYPE_CHECKING:
    from recsys.training.run import Run  # at run time only where a folder is named, for it brings torch

CONFIG = re.compile(r"\.ya?ml$", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The names of the columns in a file; a `user` of None is user_id, if the file has one."""

    row_id: str = "row_id"
    label: str = "label"
    prediction: str = "prediction"
    user: str | None = None


@dataclass(frozen=True)
class Predictions:
    """One seed of an arm: a file, or that of a finished run."""

    path: Path
    run: "Run | None" = None

    @classmethod
    def of(cls, run: "Run") -> "Predictions":
        """Return the predictions of a run on its test rows."""
        return cls(run.path / "predictions.parquet", run)

    @property
    def source(self) -> str:
        """The name in messages."""
        return str(self.path if self.run is None else self.run.path)

    def read(self, columns: Columns, extra: Sequence[str] = ()) -> pa.Table:
        """Read the table: row_id, label, prediction, user_id where known, and those of `extra` that it has.

        Raises:
            ValueError: There is no such file, it cannot be read, a column is absent or repeated, or the checksum of a run's
                file is wrong.
        """
        if self.run is not None:  # whose columns have the names that `train` gives them
            return read_predictions(self.run.verified(self.path.name), Columns())
        return read_predictions(self.path, columns, extra)


Arms = Mapping[str, Sequence[Predictions]]


def named(argument: str) -> tuple[str | None, Path]:
    """Take `[NAME=]PATH` apart; a path that exists may hold an equals sign."""
    name, equals, path = argument.partition("=")
    if not equals or Path(argument).exists():
        return None, Path(argument)
    if not name or not path:
        raise ValueError(f"{argument}: write NAME=PATH, or the path alone")
    return name, Path(path)


def are_configs(arguments: Sequence[str]) -> bool:
    """Return whether all arguments are configurations; raise ValueError where some are and some are not."""
    kinds = {argument: CONFIG.search(named(argument)[1].name) is not None for argument in arguments}
    if len(set(kinds.values())) > 1:
        (config, *_), (other, *_) = ([a for a in kinds if kinds[a] is kind] for kind in (True, False))
        raise ValueError(
            f"{config} is a configuration, {other} is not: compare configurations with each other, or finished runs "
            "and files of predictions; name the run folder that `recsys train` made of the configuration"
        )
    return all(kinds.values())


def find_arms(arguments: Sequence[str]) -> dict[str, list[Predictions]]:
    """Return arms by name, in the order of the arguments, each with its seeds.

    Raises:
        ValueError: There is no such path, a folder is no finished run, there are fewer than two arms, or an arm's
            predictions are not those of different seeds of one configuration, or are files that nobody called seeds.
    """
    arms: dict[str, list[Predictions]] = {}
    by_default: set[str] = set()  # arms called by a file
    for argument in arguments:
        name, path = named(argument)
        for default, predictions in _predictions_of(path):
            arms.setdefault(name or default, []).append(predictions)
            if name is None and predictions.run is None:
                by_default.add(default)
    if len(arms) < 2:
        (only,) = arms
        raise ValueError(
            f"all arguments are seeds of one arm, {only}: a comparison needs two, name them apart with NAME=PATH"
        )
    for name, seeds in arms.items():
        _check_seeds(name, seeds)
        if len(seeds) > 1 and name in by_default:
            raise ValueError(
                f"two files are called {name}: name them apart with NAME=PATH, or give both one NAME as seeds"
            )
    return arms


def tables(
    seeds: Sequence[Predictions], columns: Columns, extra: Sequence[str], time: str | None = None
) -> Iterator[pa.Table]:
    """Read the tables of an arm, each when it is its turn, with the column `time` as whole numbers or timestamps.

    Raises:
        ValueError: As of `Predictions.read`; a time cannot be read.
    """
    for predictions in seeds:
        table = predictions.read(columns, extra)
        if time in table.column_names:
            try:
                times = times_of(str(time), table[time].combine_chunks())
            except ValueError as error:
                raise ValueError(f"{predictions.source}: {error}") from None
            table = table.set_column(table.column_names.index(time), time, times)
        yield table


def read_predictions(path: Path | str, columns: Columns, extra: Sequence[str] = ()) -> pa.Table:
    """Read a file of predictions, its columns as row_id, label, prediction, user_id, then those of `extra` that it has.

    Raises:
        ValueError: As of `WholeFile`; a column is absent or repeated.
    """
    file = WholeFile(Path(path))
    names = {"row_id": columns.row_id, "label": columns.label, "prediction": columns.prediction}
    if columns.user is not None or "user_id" in file.names:
        names["user_id"] = columns.user or "user_id"
    options = {"row_id": "--row-id", "label": "--label", "prediction": "--prediction", "user_id": "--user"}
    for role, name in names.items():
        if name not in file.names:
            fault = "has more than one column" if name in file.repeated else "has no column"
            raise ValueError(
                f"{path}: {fault} {name!r}, but {', '.join(file.names)}; name the column of the {role} with {options[role]}"
            )
    names |= {name: name for name in extra if name in file.names and name not in names}
    table = file.read(list(dict.fromkeys(names.values())))
    result = {role: table[name] for role, name in names.items()}
    if file.text:
        for role, cure in (("label", "write 0 or 1"), ("prediction", "write a probability such as 0.25")):
            result[role] = file.numbers(names[role], result[role].combine_chunks(), cure)
    return pa.table(result)


def _predictions_of(path: Path) -> list[tuple[str, Predictions]]:
    """Return the predictions that a path stands for, each with the name of its arm."""
    if path.is_dir():
        from recsys.training.run import Run, is_finished

        seeds = sorted(path.glob("seed-*"), key=lambda seed: (len(seed.name), seed.name))
        runs = [Run.open(folder) for folder in ([path] if is_finished(path) else seeds or [path])]
        return [(run.config.name, Predictions.of(run)) for run in runs]
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder")
    name = bare_name(path)
    if name is None:
        raise ValueError(f"{path}: neither a run folder nor a file {ENDINGS}")
    return [(name, Predictions(path))]


def _check_seeds(name: str, seeds: Sequence[Predictions]) -> None:
    """Refuse what would count as luck of seeds, or as none: one seed twice, another configuration."""
    if len({predictions.path.resolve() for predictions in seeds}) < len(seeds):
        raise ValueError(f"{name}: the same predictions stand twice: give each seed once")
    runs = [predictions.run for predictions in seeds if predictions.run is not None]
    settings = {run.config.replace({"training.seed": 0}).digest(run.prepared_path) for run in runs}
    if len(settings) > 1 or len({run.config.training.seed for run in runs}) < len(runs):
        raise ValueError(
            f"{name}: these runs differ in more than their seed, or share one: name them apart, NAME=PATH"
        )
