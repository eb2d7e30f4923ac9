"""MovieLens-1M: ratings.dat with the attributes of users.dat and movies.dat (`::`, no header, Latin-1).

`year` is what stands in the title's last parentheses and `title` what stands before them; a title without a
year stays whole, with a null year. `genres` is a list. Ratings of a user or movie without a line of
its own keep null attributes. Unreadable lines of all three files go to quarantine.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, existing_folder, read_files, require
from recsys_pipelines.sources.delimited import DelimitedFile, Dialect
from recsys_pipelines.sources.join import attributes, join
from recsys_pipelines.sources.text import split

DIALECT = Dialect(b"::", encoding="latin-1")
RATINGS = ("user_id", "item_id", "rating", "timestamp")
USERS = ("gender", "age", "occupation", "zip_code")
MOVIES = ("title", "year", "genres")
YEAR = r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)\s*$"


class MovieLens1M:
    """`path` is the folder of the three files."""

    columns: tuple[str, ...] = (*RATINGS, *USERS, *MOVIES)

    def __init__(self, path: str | Path, *, labelled: bool = True) -> None:
        folder = existing_folder(path)
        self._ratings = DelimitedFile(folder / "ratings.dat", DIALECT, RATINGS)
        self._users = DelimitedFile(folder / "users.dat", DIALECT, ("user_id", *USERS))
        self._movies = DelimitedFile(folder / "movies.dat", DIALECT, ("item_id", "title", "genres"))

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """As `Source.chunks`; users and movies are held in memory."""
        require(columns, self.columns, self._ratings.path)
        return self._joined(list(columns), quarantine)

    def _joined(self, columns: list[str], quarantine: Quarantine) -> Iterator[Chunk]:
        sides = {}
        if any(name in USERS for name in columns):
            sides["user_id"] = attributes(self._users, "user_id", USERS, quarantine)
        if any(name in MOVIES for name in columns):
            movies = attributes(self._movies, "item_id", ("title", "genres"), quarantine)
            sides["item_id"] = _parsed(movies)
        for chunk in read_files([self._ratings], RATINGS, quarantine):
            for key, side in sides.items():
                chunk = join(chunk, key, side)
            yield Chunk(chunk.table.select(columns), chunk.rows, chunk.file, chunk.lines)


def _parsed(movies: pa.Table) -> pa.Table:
    """Item, title without its year, year and list of genres [N]."""
    title = movies["title"].combine_chunks()
    parts = pc.extract_regex(title, YEAR)
    return pa.table(
        {
            "item_id": movies["item_id"],
            "title": pc.coalesce(pc.struct_field(parts, "title"), title),
            "year": pc.struct_field(parts, "year"),
            "genres": split(movies["genres"].combine_chunks(), "|"),
        }
    )
