"""RecBole's atomic files: a folder with one `<name>.inter`, and perhaps `<name>.user` and `<name>.item`.

Tab, a header of `name:type`; the key of .user or .item is its first column. token and float columns are
strings; token_seq and float_seq, whose elements are parted by spaces, are lists of strings. Rows of .inter
whose user or item has no line keep null attributes.
"""

from functools import partial
from pathlib import Path

from recsys_pipelines.sources.base import SourceError, existing_folder
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import TAB
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place, Url, entries
from recsys_pipelines.sources.text import split

TYPES = ("token", "float", "token_seq", "float_seq")
SEQUENCE = partial(split, separator=" ")


class RecBole(Joined):
    """The rows of .inter, with the columns that .user and .item add to its own."""

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        inter = _inter(existing_folder(path))
        attributes = (inter.with_suffix(suffix) for suffix in (".user", ".item"))
        sides = [_open(file) for file in attributes if file.exists()]
        super().__init__(_open(inter), [(side.schema.names[0], side) for side in sides])


def _inter(folder: Path | Url) -> Path | Url:
    """Return the .inter file: the one called like the folder where there are several."""
    files = [file for file in entries(folder) if file.suffix == ".inter"]
    named = folder / f"{folder.resolve().name}.inter"
    if named in files:
        return named
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise SourceError(
            f"{folder}: one .inter file is needed, and there is {names}: name the folder like it"
        )
    return files[0]


def _open(path: Path | Url) -> Derived:
    """Open a file under its plain names, with lists where it has sequences."""
    types = {}
    for field in DelimitedFile(path, TAB).names:
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise SourceError(f"{path}: the header has {field!r}: write name:type, type {' or '.join(TYPES)}")
        types[name] = kind
    file = DelimitedFile(path, TAB, rename=_name)
    sequences = (name for name in file.schema.names if types[name].endswith("_seq"))
    return Derived(file, {name: Derivation(name, SEQUENCE) for name in sequences})


def _name(field: str) -> str:
    return field.rpartition(":")[0]
