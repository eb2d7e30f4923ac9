"""MovieLens 25M, 32M and latest: ratings.csv with the attributes of movies.csv (comma, UTF-8, quoted titles).

ratings.csv has the header userId,movieId,rating,timestamp (half stars, Unix seconds), movies.csv the header
movieId,title,genres. Columns are called and made as those of `movielens_1m`, so that one recipe fits all:
user_id, item_id, rating, timestamp, title, genres (a list, null for "(no genres listed)") and year.
"""

from recsys_pipelines.sources.base import existing_folder
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derived
from recsys_pipelines.sources.dialect import COMMA
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place
from recsys_pipelines.sources.movielens_1m import MOVIES, RATINGS

NAMES = {"userId": "user_id", "movieId": "item_id"}


class MovieLensCSV(Joined):
    """The ratings of a folder, `path`, with the attributes of their movies."""

    columns: tuple[str, ...] = (*RATINGS, "title", "genres", "year")

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        folder = existing_folder(path)
        ratings = DelimitedFile(folder / "ratings.csv", COMMA, rename=_name)
        movies = DelimitedFile(folder / "movies.csv", COMMA, rename=_name)
        ratings.require(RATINGS)
        super().__init__(ratings, [("item_id", Derived(movies, MOVIES))])


def _name(published: str) -> str:
    return NAMES.get(published, published)
