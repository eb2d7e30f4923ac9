"""MovieLens-1M: ratings.dat with the attributes of users.dat and movies.dat (`::`, no header, Latin-1).

`year` is what stands in the title's last parentheses and `title` what stands before them; a title without a
year stays whole, with a null year. `genres` is a list. Ratings of a user or movie without a line of
its own keep null attributes. Unreadable lines of all three files go to quarantine.
"""

import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.sources.base import existing_folder
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import Dialect
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place
from recsys_pipelines.sources.text import split

DIALECT = Dialect(b"::", encoding="latin-1")
RATINGS = ("user_id", "item_id", "rating", "timestamp")
USERS = ("gender", "age", "occupation", "zip_code")
TITLE = r"^(?P<title>.*\S)\s*\((?P<year>\d{4})\)\s*$"


def _title(title: pa.Array) -> pa.Array:
    return pc.coalesce(pc.struct_field(pc.extract_regex(title, TITLE), "title"), title)


def _year(title: pa.Array) -> pa.Array:
    return pc.struct_field(pc.extract_regex(title, TITLE), "year")


def _genres(genres: pa.Array) -> pa.Array:
    return split(pc.replace_substring(genres, "(no genres listed)", ""), "|")


MOVIES = {
    "title": Derivation("title", _title),
    "year": Derivation("title", _year),
    "genres": Derivation("genres", _genres),
}


class MovieLens1M(Joined):
    """`path` is the folder of the three files."""

    columns: tuple[str, ...] = (*RATINGS, *USERS, "title", "genres", "year")

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        folder = existing_folder(path)
        ratings = DelimitedFile(folder / "ratings.dat", DIALECT, RATINGS)
        movies = DelimitedFile(folder / "movies.dat", DIALECT, ("item_id", "title", "genres"))
        users = DelimitedFile(folder / "users.dat", DIALECT, ("user_id", *USERS))
        super().__init__(ratings, [("user_id", users), ("item_id", Derived(movies, MOVIES))])
