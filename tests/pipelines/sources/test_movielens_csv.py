import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.movielens_1m import MovieLens1M
from recsys_pipelines.sources.movielens_csv import MovieLensCSV

RATINGS = "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n2,8,3.5,1147868817\n2,7,0.5,1147868828\n"
MOVIES = (
    "movieId,title,genres\n"
    '296,"Misérables, Les (1995)",Drama|War\n'
    '8,"Say ""Amen"", Somebody (1982) ",(no genres listed)\n'
)


def folder(path, ratings=RATINGS, movies=MOVIES):
    (path / "ratings.csv").write_text(ratings)
    (path / "movies.csv").write_text(movies)
    return path


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_columns_are_those_of_1m(tmp_path):
    source = open_source(DataConfig(source="movielens_csv", path=folder(tmp_path)))
    assert source.columns == MovieLensCSV.columns
    assert set(source.columns) < set(MovieLens1M.columns)
    table, bad = read(source, source.columns)
    assert table.slice(0, 2).to_pylist() == [
        {
            **dict(user_id="1", item_id="296", rating="5.0", timestamp="1147880044"),
            **dict(title="Misérables, Les", year="1995", genres=["Drama", "War"]),
        },
        {
            **dict(user_id="2", item_id="8", rating="3.5", timestamp="1147868817"),
            **dict(title='Say "Amen", Somebody', year="1982", genres=None),
        },
    ]
    assert (
        table.slice(2).to_pylist()[0] | {"title": None, "year": None, "genres": None}
        == (table.slice(2).to_pylist()[0])
    )
    assert bad.count == 0


def test_bad_lines(tmp_path):
    ratings = RATINGS + '1,2,3\n1,"2,3,4\n5,6,1.0,7\n'
    source = MovieLensCSV(folder(tmp_path, ratings, MOVIES + "296,Again,War\n"))
    table, bad = read(source, ["user_id", "genres"])
    assert table.num_rows == 4
    assert sorted((e.file.rsplit("/")[-1], e.line, e.reason) for e in bad.examples) == [
        ("movies.csv", 4, "repeated key: the first row of it is used"),
        ("ratings.csv", 5, "3 columns instead of 4"),
        ("ratings.csv", 6, "quotes: unexpected end of data"),
    ]


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(SourceError, match=r"ratings\.csv: there is no such file"):
        MovieLensCSV(tmp_path)
    with pytest.raises(SourceError, match=r"ratings\.csv: there is no column 'rating'"):
        MovieLensCSV(folder(tmp_path, ratings="userId,movieId,tag,timestamp\n1,2,x,3\n"))
    with pytest.raises(SourceError, match=r"movies\.csv: there is no column 'item_id'"):
        MovieLensCSV(folder(tmp_path, movies="id,title,genres\n1,x,y\n"))
