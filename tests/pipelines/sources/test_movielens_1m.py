import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.movielens_1m import MovieLens1M

RATINGS = ["1::1193::5::978300760", "2::661::3::978302109", "1::661::3::978302109", "9::9::1::978302109"]
USERS = ["1::F::1::10::48067", "2::M::56::16::70072-1"]
MOVIES = [
    "1193::One Flew Over: the Cuckoo's Nest (1975)::Drama",
    "661::Misérables, Les (Wretched (1935)) (1995)::Animation|Children's|Musical",
]


def folder(path, ratings=RATINGS, users=USERS, movies=MOVIES):
    for name, lines in (("ratings", ratings), ("users", users), ("movies", movies)):
        (path / f"{name}.dat").write_bytes("".join(line + "\n" for line in lines).encode("latin-1"))
    return path


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_joined(tmp_path):
    source = open_source(DataConfig(source="movielens_1m", path=folder(tmp_path)))
    assert source.columns == (
        *("user_id", "item_id", "rating", "timestamp"),
        *("gender", "age", "occupation", "zip_code"),
        *("title", "genres", "year"),
    )
    table, bad = read(source, source.columns)
    assert table.slice(0, 2).to_pylist() == [
        {
            **dict(user_id="1", item_id="1193", rating="5", timestamp="978300760"),
            **dict(gender="F", age="1", occupation="10", zip_code="48067"),
            **dict(title="One Flew Over: the Cuckoo's Nest", year="1975", genres=["Drama"]),
        },
        {
            **dict(user_id="2", item_id="661", rating="3", timestamp="978302109"),
            **dict(gender="M", age="56", occupation="16", zip_code="70072-1"),
            **dict(title="Misérables, Les (Wretched (1935))", year="1995"),
            "genres": ["Animation", "Children's", "Musical"],
        },
    ]
    # A rating of an unknown user and movie stays, without attributes.
    last = table.slice(3).to_pylist()[0]
    assert [name for name in source.columns if last[name] is None] == list(source.columns[4:])
    assert bad.count == 0


def test_only_what_is_asked(tmp_path):
    source = MovieLens1M(folder(tmp_path, users=["unreadable"]))
    table, bad = read(source, ["genres", "rating"])
    assert table.column_names == ["genres", "rating"]
    assert bad.count == 0


def test_a_title_without_a_year(tmp_path):
    movies = ["1193::Untitled::Drama", "661::(1999)::", "9::Film (19xx)::War|"]
    table, _ = read(MovieLens1M(folder(tmp_path, movies=movies)), ["title", "year", "genres"])
    assert table["title"].to_pylist() == ["Untitled", "(1999)", "(1999)", "Film (19xx)"]
    assert table["year"].to_pylist() == [None] * 4
    assert table["genres"].to_pylist() == [["Drama"], None, None, ["War", None]]


def test_bad_lines_of_all_files(tmp_path):
    ratings = [*RATINGS, "1::2::3", "1\x1f2::3::4::5", "1:2:3:4", "1::2::3::4::5"]
    users = [*USERS, "1::M::1::1::1", "::M::1::1::1", "3::M"]
    source = MovieLens1M(folder(tmp_path, ratings=ratings, users=users))
    table, bad = read(source, ["rating", "gender"])
    assert table["gender"].to_pylist() == ["F", "M", "F", None]
    assert sorted((e.file.rsplit("/")[-1], e.line, e.reason) for e in bad.examples) == [
        ("ratings.dat", 5, "3 columns instead of 4"),
        ("ratings.dat", 6, "control character 1F inside a line"),
        ("ratings.dat", 7, "1 columns instead of 4"),
        ("ratings.dat", 8, "5 columns instead of 4"),
        ("users.dat", 3, "repeated key: the first row of it is used"),
        ("users.dat", 4, "no key"),
        ("users.dat", 5, "2 columns instead of 5"),
    ]
    assert table.num_rows + sum(e.file.endswith("ratings.dat") for e in bad.examples) == len(ratings)


def test_folder_and_files_must_be_there(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere.*no such folder"):
        MovieLens1M(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"ratings\.dat.*no such file"):
        MovieLens1M(tmp_path)
    folder(tmp_path)
    with pytest.raises(SourceError, match="a folder is needed"):
        MovieLens1M(tmp_path / "users.dat")
    with pytest.raises(SourceError, match=r"'zip'.*did you mean 'zip_code'"):
        MovieLens1M(tmp_path).chunks(["zip"], Quarantine())
