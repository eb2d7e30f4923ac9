"""Which source reads a file or folder: the published logs are known by their names and columns, all others are tables."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recsys_pipelines.sources import avazu, criteo, kuairec, open_bandit, taobao_ad, taobao_behavior
from recsys_pipelines.sources.base import SourceError
from recsys_pipelines.sources.blocks import COMPRESSIONS, first_bytes
from recsys_pipelines.sources.columnar import COLUMNAR
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.location import Url, entries, located
from recsys_pipelines.sources.table import FORMATS, ending, open_file

ATOMIC = (".inter", ".user", ".item")


class Reading(NamedTuple):
    """The name of a source, what `data.path` is for it, and why."""

    source: str
    path: Path | Url
    reason: str


def reading_of(path: str) -> Reading:
    """Return how a file or folder is read. Raises SourceError where nothing reads it."""
    place = located(path)
    try:
        exists = place.exists()
    except OSError as error:
        raise SourceError(f"{path}: cannot be reached ({error}): check the name and your access") from error
    if not exists:
        raise SourceError(f"{path}: there is no such file or folder: check the name")
    if place.is_dir():
        return _of_folder(place)
    if place.suffix in ATOMIC:
        return _of_atomic_file(place)
    if ending(place) in FORMATS:
        return _of_columns(place)
    return _of_first_line(place)


def _of_folder(folder: Path | Url) -> Reading:
    names = {entry.name for entry in entries(folder)}
    if any(name.endswith(".inter") for name in names):
        return Reading("recbole", folder, "a folder with an .inter file")
    for source, files in (
        ("movielens_1m", {"ratings.dat", "users.dat", "movies.dat"}),
        ("movielens_csv", {"ratings.csv", "movies.csv"}),
        ("taobao_ad", {"raw_sample.csv", "user_profile.csv", "ad_feature.csv"}),
    ):
        if files <= names:
            return Reading(source, folder, f"a folder with {', '.join(sorted(files))}")
    if any(re.match(r"day_\d+(\.|$)", name) for name in names):
        return Reading("criteo_1tb", folder, "a folder with files day_0, day_1, …")
    if matrices := sorted(names & {"big_matrix.csv", "small_matrix.csv"}):
        return Reading("kuairec", folder / matrices[0], f"a folder with {matrices[0]}")
    if "train.csv" in names and (known := _of_columns(folder / "train.csv")).source in (
        "criteo_x4",
        "criteo_x1",
    ):
        return Reading(known.source, folder, f"a folder with train.csv, which has {known.reason}")
    if "train.txt" in names and (known := _of_first_line(folder / "train.txt")).source == "ngcf":
        return Reading("ngcf", folder, f"a folder with train.txt, {known.reason}")
    return Reading("table", folder, "a folder of files with the same columns")


def _of_atomic_file(file: Path | Url) -> Reading:
    """Return the folder of an atomic file, if that is the log that the folder stands for."""
    folder = file.parent
    logs = [entry.name for entry in entries(folder) if entry.suffix == ".inter"]
    read = [name for name in logs if name == f"{folder.resolve().name}.inter"] or logs
    if not isinstance(file, Path) or read != [file.with_suffix(".inter").name]:
        raise SourceError(
            f"{file}: RecBole's atomic files are read by their folder, in which {' and '.join(logs) or 'no .inter file'} "
            "stands: put this .inter with its .user and .item into a folder of its own"
        )
    return Reading("recbole", folder, "RecBole's atomic files, which are read by their folder")


def _of_columns(file: Path | Url) -> Reading:
    """Return the published log that has the columns of a file with a header, or else a table."""
    opened = open_file(file, rename=str)
    names = opened.names if isinstance(opened, DelimitedFile) else opened.schema.names
    columnar = ending(file) in COLUMNAR
    small = {name.lower() for name in names}
    if set(criteo.COLUMNS) <= small and ending(file) != ".tsv":
        source = "criteo" if columnar else "criteo_x4" if "Label" in names else "criteo_x1"
        return Reading(source, file, "Criteo's columns label, i1 to i13, c1 to c26")
    if set(open_bandit.NAMES) <= set(names):
        return Reading("open_bandit", file, "the columns of the Open Bandit Dataset")
    if not columnar:
        for source, columns in (
            ("avazu", ("click", *avazu.FEATURES)),
            ("kuairec", kuairec.MATRIX),
            ("taobao_ad", taobao_ad.SAMPLE),
        ):
            if set(columns) <= set(names):
                return Reading(source, file, f"the columns of {source}")
        if len(names) == 5 and names[3] in taobao_behavior.BEHAVIORS:
            return Reading("taobao_behavior", file, "no header, and pv, cart, fav or buy in the fourth place")
    return Reading("table", file, f"a file that ends with {ending(file)}")


def _of_first_line(file: Path | Url) -> Reading:
    """Return the published log whose lines look like the first one of a file without a header."""
    line = first_bytes(file)[:100_000].decode("latin-1")
    day = re.match(r"day_\d+", file.name)
    shapes: Sequence[tuple[Callable[[str], Any], str, str]] = (
        (
            lambda text: text.count("\t") == len(criteo.COLUMNS) - 1,
            "criteo_1tb" if day else "criteo",
            "40 fields a line",
        ),
        (lambda text: re.fullmatch(r"\d+(\t\d+){11}", text), "kdd12", "twelve numbers a line"),
        (
            lambda text: re.fullmatch(r"\d+( \d+)*\s*", text),
            "ngcf",
            "a user's number and those of its items in a line",
        ),
        (_is_review, "amazon", "JSON lines of reviews"),
    )
    for looks_so, source, reason in shapes:
        if looks_so(line):
            return Reading(source, file, reason)
    if file.name == "ratings.dat":
        return _of_folder(file.parent)
    plain = file.with_suffix("") if isinstance(file, Path) and file.suffix in COMPRESSIONS else file
    if plain.suffix in (".json", ".jsonl"):
        raise SourceError(
            f"{file}: of JSON lines only Amazon's reviews are read: convert the file to Parquet or CSV"
        )
    open_file(file)  # says which endings are read
    raise AssertionError(f"{file} has no ending that is read")


def _is_review(line: str) -> bool:
    try:
        review = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(review, dict) and (
        "reviewerID" in review or {"user_id", "parent_asin"} <= review.keys()
    )
