import datetime

import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.features.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.kuairec import MATRIX, KuaiRec

SMALL = ",".join(MATRIX) + (
    "\n14,148,4381,6067,2020-07-05 05:27:48.378,20200705,1593898068.378,0.722103180979067"
    "\n14,183,11635,6100,2020-07-05 05:28:00.057,20200705.0,1593898080.057,1.907377049180328"
    "\n19,3649,22422,10867,,,,2.0633109413821663\n"
)
ITEMS = 'video_id,feat\n148,"[27, 9]"\n183,[8]\n3649,[]\n'
USERS = "user_id,user_active_degree,onehot_feat0\n14,full_active,1\n19,,\n"
FRIENDS = 'user_id,friend_list\n14,"[2975, 5]"\n'


def folder(path, small=SMALL, items=ITEMS, users=USERS, friends=FRIENDS):
    (path / "small_matrix.csv").write_text(small)
    for name, text in (("item_categories", items), ("user_features", users), ("social_network", friends)):
        if text is not None:
            (path / f"{name}.csv").write_text(text)
    return path / "small_matrix.csv"


def read(source, columns):
    bad = Quarantine()
    return pa.concat_tables(c.table for c in source.chunks(columns, bad)), bad


def test_joined(tmp_path):
    source = open_source(DataConfig(source="kuairec", path=folder(tmp_path)))
    assert source.columns == (*MATRIX, "user_active_degree", "onehot_feat0", "feat", "friend_list")
    table, bad = read(source, ["feat", "friend_list", "user_active_degree", "timestamp", "date"])
    assert table.to_pydict() == {
        "feat": [["27", "9"], ["8"], []],
        "friend_list": [["2975", "5"], ["2975", "5"], None],
        "user_active_degree": ["full_active", "full_active", None],
        "timestamp": [
            datetime.datetime(2020, 7, 4, 21, 27, 48, 378000),
            datetime.datetime(2020, 7, 4, 21, 28, 0, 57000),
            None,
        ],
        "date": ["20200705", "20200705.0", None],
    }
    assert bad.count == 0


def test_label_and_time_become_numbers(tmp_path):
    specs = {"l": ColumnSpec("watch_ratio", "label", threshold=1.0), "t": ColumnSpec("timestamp", "integer")}
    bad = Quarantine()
    (chunk,) = KuaiRec(folder(tmp_path)).chunks(["watch_ratio", "timestamp"], bad)
    table = typed(chunk, specs, bad)
    assert table["l"].to_pylist() == [0, 1]
    assert table["t"].to_pylist() == [1593898068378000, 1593898080057000]
    assert [(e.line, e.reason) for e in bad.examples] == [(4, "missing")]


def test_other_files_may_be_absent(tmp_path):
    assert KuaiRec(folder(tmp_path, items=None, users=None, friends=None)).columns == MATRIX


@pytest.mark.parametrize(
    "text", ["[1, 2", "1, 2", "[1 2]", "[1,,2]", "[__import__('os')]", "[1, 'a']", "[1.5]"]
)
def test_a_list_that_is_none(tmp_path, text):
    source = KuaiRec(folder(tmp_path, items=f'video_id,feat\n148,"{text}"\n183,"[ 1 , -2 ]"\n'))
    table, bad = read(source, ["feat"])
    assert table["feat"].to_pylist() == [None, ["1", "-2"], None]
    assert [(e.line, e.field, e.value, e.reason) for e in bad.examples] == [
        (2, "feat", text, "not a list in brackets")
    ]


@pytest.mark.parametrize("time", ["soon", "nan", "1e300", "-inf"])
def test_a_time_that_is_none(tmp_path, time):
    source = KuaiRec(folder(tmp_path, small=SMALL + f"1,2,3,4,,,{time},5\n"))
    table, bad = read(source, ["timestamp"])
    assert table.num_rows == 3
    assert [(e.line, e.field, e.value, e.reason) for e in bad.examples] == [
        (5, "timestamp", time, "not Unix seconds")
    ]


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(SourceError, match="this is a folder, and a file is needed"):
        KuaiRec(tmp_path)
    with pytest.raises(SourceError, match=r"small_matrix\.csv: there is no column 'play_duration'"):
        KuaiRec(folder(tmp_path, small="user_id,video_id\n1,2\n"))
    assert (
        KuaiRec(folder(tmp_path, small="user_id,video_id\n1,2\n"), labelled=False).columns[:2] == MATRIX[:2]
    )
    with pytest.raises(SourceError, match=r"user_features\.csv: there is no column 'user_id'"):
        KuaiRec(folder(tmp_path, users="id,a\n1,2\n"))
