"""The experiment that a guess ends in, and a rival of it with small tables, as YAML with the reasons as comments."""

import json
import math
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.config import parse_experiment
from recsys.config.reading import set_dotted
from recsys.config.yaml_text import parse_yaml
from recsys.starting.guess import MOST_QUARANTINED, Guess
from recsys.starting.names import is_item
from recsys.starting.text import listed, one_line, printable, scalar
from recsys.starting.uses import LEFT_OUT
from recsys_pipelines.sources.location import Url, located

WIDTH = 110
RIVAL = "unified"
RIVAL_TABLES = "tables: {scheme: unified, chunk_dim: 8, budget: 10%}"
BATCHES = ((20_000, 64), (200_000, 256), (5_000_000, 1024))  # rows below which a batch size is taken
LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Places:
    """Where an experiment and its rival are to be written."""

    experiment: Path
    rival: Path


@dataclass(frozen=True)
class Draft:
    """The texts of an experiment and of its rival, and what `recsys compare` takes."""

    text: str
    rival_text: str
    commands: str


@dataclass(frozen=True)
class Group:
    """Columns that are declared in one feature: their names as features, a kind and its keys, and why."""

    kind: str
    keys: dict[str, Any]
    reason: str
    columns: dict[str, str]  # name of the feature -> column

    def line(self, hashed: bool = False) -> str:
        """Return the declaration as YAML."""
        single = self.kind in ("date", "tokens")
        names, columns = list(self.columns), list(self.columns.values())
        pairs = [f"kind: {self.kind}"]
        if not single:
            pairs.append(_pair("names", names))
        elif self.kind == "date" or names != columns:
            pairs.append(_pair("name", names[0]))
        if names != columns or (single and self.kind != "date"):
            pairs.append(_pair("column", columns[0]) if single else _pair("columns", columns))
        keys = self.keys
        if hashed and self.kind in ("categorical", "tokens"):
            keys = {key: value for key, value in keys.items() if key != "min_count"} | {"encoding": "hash"}
        pairs += [_pair(key, value) for key, value in keys.items()]
        return _wrapped("  - {", pairs, "}")


def places_of(log: str, experiment: Path | None, force: bool) -> Places:
    """Return where to write. Raises ValueError where something lies there already, unless `force`."""
    if experiment is None:
        name = re.sub(r"[^\w.-]", "_", located(log.rstrip("/") or log).name.partition(".")[0]) or "experiment"
        experiment = Path(f"{name}.yaml")
    if experiment.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out {experiment}: an experiment ends with .yaml: write --out {experiment}.yaml")
    rival = experiment.with_name(f"{experiment.stem}_{RIVAL}{experiment.suffix}")
    for place in (experiment, rival):
        if place.is_dir() or (place.exists() and not force):
            raise ValueError(
                f"{place}: exists already: take another name with --out, or write over it with --force"
            )
    return Places(experiment, rival)


def draft_of(guess: Guess, places: Places) -> Draft:
    """Write a guess down. Raises ConfigError if what is written could not be read."""
    experiment, rival = places.experiment, places.rival
    groups = _groups(guess)
    text = "\n".join(
        [
            *_head(guess, experiment, rival),
            *_data(guess, experiment),
            *_features(guess, groups),
            *_rest(guess),
        ]
    )
    rival_text = "\n".join(_rival(experiment, rival, groups))
    _check(text, rival_text, experiment, rival)
    return Draft(text + "\n", rival_text + "\n", f"{_word(experiment)} {_word(rival)}")


def _check(text: str, rival_text: str, experiment: Path, rival: Path) -> None:
    """Read what was written as it will be read, before it lies anywhere."""
    raw = parse_yaml(text)
    parse_experiment(raw, str(experiment))
    changes = parse_yaml(rival_text)
    for key, value in changes.pop("set", {}).items():
        set_dotted(raw, key, value, str(rival))
    changes.pop("extends")
    parse_experiment(raw | changes, str(rival))


def _head(guess: Guess, experiment: Path, rival: Path) -> Iterator[str]:
    yield f"# Written by `recsys init`, which looked at {guess.looked_at()}: what it guessed, and why."
    yield "# Every line may be changed; docs/features.md has an example of every kind of feature."
    yield f"#   recsys train {_word(experiment)}"
    yield f"#   recsys compare {_word(experiment)} {_word(rival)}"
    for warning in guess.warnings:
        yield from _comment(f"Mind: {warning}.", "# ")
    yield "name: full"


def _data(guess: Guess, experiment: Path) -> Iterator[str]:
    label = _pair("column", guess.label.column)
    if guess.label.threshold is not None:
        label += f", threshold: {guess.label.threshold:g}"
    yield "data:"
    yield from _explained(guess.reading.reason, f"source: {guess.reading.source}")
    yield f"  path: {scalar(_path(guess.reading.path, experiment))}"
    yield from _explained(guess.label.reason, f"label: {{{label}}}")
    if guess.user is not None:
        yield from _explained(
            f"{guess.user_reason}; tests resample users, not rows", f"user: {scalar(guess.user)}"
        )
    if guess.time is not None:
        time, column = guess.time, scalar(guess.time.column.name)
        declared = (
            column if time.declared is None else f"{{column: {column}, {_pair('format', time.declared)}}}"
        )
        yield from _explained(guess.time_reason, f"time: {declared}")
    if guess.weight is not None:
        yield f"  weight: {scalar(guess.weight)}"
    shares = "train: 0.8, validation: 0.1, test: 0.1"
    yield from _explained(guess.split_reason, f"split: {{by: {guess.split}, {shares}}}")
    if guess.label_missing > MOST_QUARANTINED:
        limit = min(math.ceil(guess.label_missing * 20 + 0.5) / 20, 1.0)
        reason = f"{guess.label_missing:.1%} of the rows have no label"
        yield from _explained(reason, f"quarantine_limit: {limit:g}")


def _explained(reason: str, line: str) -> Iterator[str]:
    """Yield a key of the section `data`, and before it why it is so."""
    yield from _comment(reason, "  # ")
    yield f"  {line}"


def _features(guess: Guess, groups: list[Group]) -> Iterator[str]:
    yield "features:"
    for group in groups:
        values = ", ".join(_counted(guess, column) for column in group.columns.values())
        yield from _comment(f"{group.reason} ({values})", "  # ")
        yield group.line()
    if (history := _history(guess, groups)) is not None:
        yield "  # a user's last items, which the model then pools (or attends to: model din):"
        yield f"  # {history}"
    reasons: dict[str, list[str]] = {}
    for name, use in guess.uses.items():
        if use.kind == LEFT_OUT:
            reasons.setdefault(use.reason, []).append(name)
    if reasons:
        yield "# Left out:"
    for reason, columns in reasons.items():
        yield from _comment(f"{listed(columns)}: {reason}", "#   ")


def _rest(guess: Guess) -> Iterator[str]:
    rows = guess.sample.rows_in_log or guess.sample.rows_read
    batch = next((size for most, size in BATCHES if rows < most), LARGEST_BATCH)
    if guess.sample.rows_in_log is None:
        batch = max(batch, BATCHES[-1][1])
    epochs = 5 if batch < BATCHES[-1][1] else 3
    yield "tables: {scheme: full, embedding_dim: 16}  # a row of 16 numbers for every id; `recsys tables` prints the bytes"
    yield "model: {name: dcn_v2, hidden: [64, 32], cross_layers: 1}"
    yield f"training: {{batch_size: {batch}, epochs: {epochs}, evaluations_per_epoch: 2, patience: 2, table_lr: 0.05}}"


def _rival(experiment: Path, rival: Path, groups: list[Group]) -> Iterator[str]:
    base = one_line(experiment.name)
    yield f"# Written by `recsys init`: {base} with every id hashed into one table of a tenth of the bytes."
    yield f"#   recsys compare {_word(experiment)} {_word(rival)}"
    yield f"extends: {scalar(experiment.name)}"
    yield f"name: {RIVAL}"
    if any(group.kind == "tokens" for group in groups):
        yield "features:"
        for group in groups:
            yield group.line(hashed=True)
    else:
        yield "set: {features.encoding: hash, features.min_count: 1}"
    yield RIVAL_TABLES


def _groups(guess: Guess) -> list[Group]:
    """Return the features in the log's order, those with the same declaration and reason together."""
    groups: dict[str, Group] = {}
    taken: set[str] = set()
    for column in guess.features:
        use = guess.uses[column]
        suffixes = ("tokens",) if use.kind == "tokens" else use.keys.get("parts", ())
        name = _feature_name(column, suffixes, taken)
        alone = column if use.kind in ("date", "tokens") else ""
        key = json.dumps([use.kind, use.keys, use.reason, alone])
        group = groups.setdefault(key, Group(use.kind, use.keys, use.reason, {}))
        group.columns[name] = column
    return list(groups.values())


def _feature_name(column: str, suffixes: Iterable[str], taken: set[str]) -> str:
    """Return a name that a feature can have, and no other has, alone or with a suffix; it is taken then."""
    plain = re.sub(r"[^\w-]+", "_", column).strip("_") or "column"
    plain = "row" if plain == "row_id" else plain
    name, number = plain, 1
    while (names := {name, *(f"{name}_{suffix}" for suffix in suffixes)}) & taken:
        number += 1
        name = f"{plain}_{number}"
    taken |= names
    return name


def _history(guess: Guess, groups: list[Group]) -> str | None:
    """Return the declaration of a user's last items, where user, time and item are there."""
    if guess.user is None or guess.time is None:
        return None
    taken = {name for group in groups for name in group.columns}
    for group in groups:
        for name, column in group.columns.items():
            if group.kind == "categorical" and "multivalued" not in group.keys and is_item(column):
                if "history" in taken:
                    return None
                pairs = [("column", column), ("length", 20), ("like", name)]
                return "- {kind: sequence, name: history, " + ", ".join(_pair(*pair) for pair in pairs) + "}"
    return None


def _counted(guess: Guess, name: str) -> str:
    column = guess.sample.columns[name]
    missing = f", {column.missing:.2g} missing" if column.missing else ""
    return f"{one_line(name)} {column.distinct:,}{missing}"


def _path(path: Path | Url, experiment: Path) -> str:
    """Return a path relative to the experiment where the log lies below it, otherwise the whole path."""
    if isinstance(path, Url):
        return str(path)
    folder, whole = experiment.resolve().parent, path.resolve()
    return os.path.relpath(whole, folder) if whole.is_relative_to(folder) else str(whole)


def _word(path: Path) -> str:
    return shlex.quote("".join(c if c.isprintable() else "?" for c in str(path)))


def _pair(key: str, value: Any) -> str:
    if isinstance(value, str):
        return f"{key}: {scalar(value)}"
    if isinstance(value, Collection):
        return f"{key}: [{', '.join(scalar(str(item)) for item in value)}]"
    return f"{key}: {json.dumps(value)}"


def _wrapped(start: str, pairs: list[str], end: str) -> str:
    """Join pairs of a mapping, on a line for each pair where one line would be too long."""
    line = start + ", ".join(pairs) + end
    if len(line) <= WIDTH:
        return line
    lines = [start + pairs[0]]
    for pair in pairs[1:]:
        lines[-1] += ","
        lines += _folded(pair, " " * len(start))
    return "\n".join(lines) + end


def _folded(pair: str, indent: str) -> list[str]:
    """Break a pair after commas that stand outside of quotes, which YAML allows."""
    lines = [indent]
    for piece in re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+,?\s*', pair):
        if len(lines[-1]) + len(piece) > WIDTH and lines[-1].strip():
            lines.append(indent + "  ")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _comment(text: str, start: str) -> Iterator[str]:
    """Yield a comment in lines of a width."""
    line = start
    for word in printable(text).split(" "):
        if len(line) + len(word) > WIDTH and line.strip("# "):
            yield line.rstrip()
            line = start + "  "
        line += f"{word} "
    yield line.rstrip()
