"""Every text format, whole and damaged in every way: no row gets lost, and nothing but plain words is raised."""

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from recsys.config import load
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.convert import typed
from recsys_pipelines.prepare import column_specs, prepare
from recsys_pipelines.quarantine import Quarantine, TooManyBadRows
from recsys_pipelines.sources import SOURCES, SourceError, open_source
from recsys_pipelines.sources.avazu import FEATURES as AVAZU
from recsys_pipelines.sources.criteo import COLUMNS as CRITEO
from recsys_pipelines.sources.kuairec import MATRIX

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = 60
TIME = 1_494_137_644


def lines(row: Callable[[int], str], *header: str, rows: int = ROWS) -> bytes:
    return "".join(f"{text}\n" for text in (*header, *map(row, range(rows)))).encode()


def one_row_a_line(lines: list[bytes]) -> int:
    return len(lines)


def one_row_an_item(lines: list[bytes]) -> int:
    """ngcf: a line without a usable user is one row."""
    pieces = [line.removesuffix(b"\r").decode(errors="replace").split(" ") for line in lines]
    texts = [list(filter(None, line)) for line in pieces]
    usable = [re.fullmatch("[0-9]+", "".join(line[:1])) and "\ufffd" not in "".join(line) for line in texts]
    return sum(len(line) - 1 if good else 1 for line, good in zip(texts, usable, strict=True))


@dataclass
class Format:
    """Files of one source; `main` have the rows, after `header` lines each. `given` is the path in the folder."""

    source: str
    files: Mapping[str, bytes]
    main: tuple[str, ...]
    categorical: tuple[str, ...]
    given: str = ""
    header: int = 0
    numeric: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    rows: Callable[[list[bytes]], int] = one_row_a_line


def criteo(k: int) -> list[str]:
    return [
        str(k % 2),
        *(str(k - j) if j % 5 else "" for j in range(13)),
        *(f"{k * j:08x}" for j in range(26)),
    ]


def amazon(k: int, old: bool) -> str:
    names = ("reviewerID", "asin", "overall", "unixReviewTime")
    names = names if old else ("user_id", "parent_asin", "rating", "timestamp")
    return json.dumps(dict(zip(names, (f"Ué{k % 7}", f"B{k % 5}", k % 5 + 1.0, TIME + k), strict=True)))


STARS = {"label": {"column": "rating", "threshold": 4}}
FORMATS = {
    "criteo": Format(
        "criteo",
        {"train.txt": lines(lambda k: "\t".join(criteo(k)))},
        ("train.txt",),
        CRITEO[14:],
        "train.txt",
        numeric=CRITEO[1:14],
    ),
    "criteo_1tb": Format(
        "criteo_1tb",
        {f"day_{day}": lines(lambda k: "\t".join(criteo(k)), rows=20) for day in (0, 2, 10)},
        ("day_0", "day_2", "day_10"),
        CRITEO[14:],
    ),
    "criteo_x4": Format(
        "criteo_x4",
        {
            f"{part}.csv": lines(
                lambda k: ",".join(criteo(k)), ",".join(map(str.capitalize, CRITEO)), rows=20
            )
            for part in ("train", "valid", "test")
        },
        ("train.csv", "valid.csv", "test.csv"),
        CRITEO[14:],
        header=1,
    ),
    "avazu": Format(
        "avazu",
        {
            "train.csv": lines(
                lambda k: f"{k},{k % 2},141021{k % 24:02}" + f",é{k}" * (len(AVAZU) - 1),
                "id,click," + ",".join(AVAZU),
            )
        },
        ("train.csv",),
        ("weekday", "hour_of_day", *AVAZU),
        "train.csv",
        1,
        data={"label": {"column": "click"}},
    ),
    "movielens_1m": Format(
        "movielens_1m",
        {
            "ratings.dat": lines(lambda k: f"{k % 5}::{k % 7}::{k % 5 + 1}::{TIME + k}"),
            "users.dat": lines(lambda k: f"{k}::F::{k}::{k}::48067", rows=5),
            "movies.dat": lines(lambda k: f"{k}::Film: {k} (19{k:02})::Drama|War", rows=7),
        },
        ("ratings.dat",),
        ("user_id", "age", "year"),
        lists=("genres",),
        data=STARS | {"time": "timestamp", "split": {"by": "time"}},
    ),
    "movielens_csv": Format(
        "movielens_csv",
        {
            "ratings.csv": lines(
                lambda k: f"{k % 5},{k % 7},{k % 5 + 0.5},{TIME + k}", "userId,movieId,rating,timestamp"
            ),
            "movies.csv": lines(
                lambda k: f'{k},"Film, é ""{k}"" (19{k:02})",Drama|War', "movieId,title,genres", rows=7
            ),
        },
        ("ratings.csv",),
        ("user_id", "year", "title"),
        header=1,
        lists=("genres",),
        data=STARS | {"time": "timestamp", "user": "user_id"},
    ),
    "recbole": Format(
        "recbole",
        {
            "ml.inter": lines(
                lambda k: f"{k % 5}\t{k % 7}\t{k % 5 + 1}", "user_id:token\titem_id:token\trating:float"
            ),
            "ml.user": lines(lambda k: f"{k}\t{k + 20}", "user_id:token\tage:float", rows=5),
            "ml.item": lines(lambda k: f"{k}\tA tale {k}", "item_id:token\ttitle:token_seq", rows=7),
        },
        ("ml.inter",),
        ("user_id", "item_id"),
        header=1,
        numeric=("age",),
        lists=("title",),
        data=STARS,
    ),
    "taobao_ad": Format(
        "taobao_ad",
        {
            "raw_sample.csv": lines(
                lambda k: f"{k % 5},{TIME + k},{k % 7},430548_1007,{1 - k % 2},{k % 2}",
                "user,time_stamp,adgroup_id,pid,nonclk,clk",
            ),
            "user_profile.csv": lines(
                lambda k: f"{k},0,5,2,5,,3,0,{k}",
                "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
                "new_user_class_level ",
                rows=5,
            ),
            "ad_feature.csv": lines(
                lambda k: f"{k},9025,1,1,{k or 'NULL'},{k}.5",
                "adgroup_id,cate_id,campaign_id,customer,brand,price",
                rows=7,
            ),
        },
        ("raw_sample.csv",),
        ("user", "pid", "pvalue_level", "new_user_class_level", "brand"),
        header=1,
        numeric=("price",),
        data={"label": {"column": "clk"}, "time": "time_stamp", "split": {"by": "time"}},
    ),
    "taobao_behavior": Format(
        "taobao_behavior",
        {"UserBehavior.csv": lines(lambda k: f"{k % 5},{k % 7},3,{'pv' if k % 3 else 'buy'},{TIME + k}")},
        ("UserBehavior.csv",),
        ("user_id", "item_id", "category_id"),
        "UserBehavior.csv",
        data={"label": {"column": "buy"}, "time": "timestamp"},
    ),
    "kdd12": Format(
        "kdd12",
        {
            "training.txt": lines(
                lambda k: (
                    f"{k % 2}\t{1 + k % 3}\t42981186814246\t{k % 7}\t385\t3\t3\t1601\t5521\t7709\t576\t{k % 5}"
                )
            )
        },
        ("training.txt",),
        ("ad_id", "user_id"),
        "training.txt",
        data={"label": {"column": "clicked"}, "weight": "weight"},
    ),
    "open_bandit": Format(
        "open_bandit",
        {
            "all.csv": lines(
                lambda k: (
                    f"{k},2019-11-24 00:00:{k:02}.004101+00:00,{k % 7},{k % 3},{k % 2},0.0125,a{k % 3},b,c,d,{k}.0"
                ),
                ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,"
                "user_feature_3,user-item_affinity_0",
            ),
            "item_context.csv": lines(
                lambda k: f"{k},{k},-0.{k},b{k},c,d",
                ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3",
                rows=7,
            ),
        },
        ("all.csv",),
        ("item_id", "position", "user_feature_0", "item_feature_1"),
        "all.csv",
        1,
        numeric=("user-item_affinity_0", "item_feature_0"),
        data={"label": {"column": "click"}, "time": "timestamp", "split": {"by": "time"}},
    ),
    "kuairec": Format(
        "kuairec",
        {
            "big_matrix.csv": lines(
                lambda k: (
                    f"{k % 5},{k % 7},4381,6067,2020-07-05 05:27:48.378,20200705,{TIME + k}.378,{k / 30}"
                ),
                ",".join(MATRIX),
            ),
            "user_features.csv": lines(
                lambda k: f'{k},full_active,0,0,1,5,"(0,10]",4,"[1,10)",0,0,107,61-90,{k}',
                "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
                "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,"
                "register_days,register_days_range,onehot_feat0",
                rows=5,
            ),
            "item_categories.csv": lines(lambda k: f'{k},"[{k}, 9]"', "video_id,feat", rows=7),
        },
        ("big_matrix.csv",),
        ("user_id", "video_id", "follow_user_num_range"),
        "big_matrix.csv",
        1,
        numeric=("video_duration",),
        lists=("feat",),
        data={
            "label": {"column": "watch_ratio", "threshold": 1},
            "time": "timestamp",
            "split": {"by": "time"},
        },
    ),
    "amazon_2014": Format(
        "amazon",
        {"reviews.json": lines(lambda k: amazon(k, True))},
        ("reviews.json",),
        ("user_id", "item_id"),
        "reviews.json",
        data=STARS | {"time": "timestamp", "split": {"by": "time"}},
    ),
    "amazon_2023": Format(
        "amazon",
        {"Books.jsonl": lines(lambda k: amazon(k, False))},
        ("Books.jsonl",),
        ("user_id", "item_id"),
        "Books.jsonl",
        data=STARS | {"time": "timestamp"},
    ),
    "ngcf": Format(
        "ngcf",
        {
            "train.txt": lines(lambda k: " ".join(str(j) for j in range(k % 5 + 1)), rows=40),
            "test.txt": lines(lambda k: f"{k} {k % 3}" if k % 4 else f"{k} ", rows=20),
        },
        ("train.txt", "test.txt"),
        ("user_id", "item_id"),
        rows=one_row_an_item,
    ),
    "table": Format(
        "table",
        {"log.csv": lines(lambda k: f'{k % 2},"é, {k}",{k}.5,a|b', 'label,"a.b",x,tags')},
        ("log.csv",),
        ("a_b",),
        "log.csv",
        1,
        numeric=("x",),
    ),
}
FORMATS |= {
    f"{name}.gz": Format(
        **{
            **vars(FORMATS[name]),
            "files": {f"{n}.gz": gzip.compress(text) for n, text in FORMATS[name].files.items()},
            "main": tuple(f"{n}.gz" for n in FORMATS[name].main),
            "given": f"{FORMATS[name].given}.gz",
        }
    )
    for name in ("criteo", "amazon_2023")
}
ENDS = {"whole", "quarantined", "stopped", "refused"}
JUNK = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b",",
    b":",
    b" ",
    b'"',
    b"'",
    b"\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b"|",
    b"\x00",
]
JUNK += [b"\x1f", b"\xff", b"\xef\xbb\xbf", b"", b"-1", b"0", b"9" * 30, b"nan", b"1e999", b"NULL", b"null"]


def config(form: Format, folder: Any) -> tuple[DataConfig, tuple[FeatureConfig, ...]]:
    features = [{"kind": "categorical", "names": form.categorical}]
    if form.numeric:
        features.append({"kind": "numeric", "names": form.numeric})
    if form.lists:
        features.append({"kind": "categorical", "names": form.lists, "multivalued": True})
    data = DataConfig(source=form.source, path=folder / form.given, **{"quarantine_limit": 0.5, **form.data})
    return data, TypeAdapter(tuple[FeatureConfig, ...]).validate_python(features)


def damaged(text: bytes, rng: np.random.Generator) -> bytes:
    """One to four injuries: bytes flipped, deleted or inserted, an end cut off, lines doubled, dropped or swapped."""
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(text) + 1))
        length = int(rng.integers(1, 30))
        rows = text.split(b"\n")
        row, other = rng.integers(len(rows), size=2)
        match rng.integers(8):
            case 0:
                text = text[:place] + bytes([rng.integers(256)]) + text[place + 1 :]
            case 1:
                text = text[:place] + text[place + length :]
            case 2:
                text = text[:place] + JUNK[rng.integers(len(JUNK))] + text[place:]
            case 3:
                text = text[:place] + rng.bytes(length) + text[place:]
            case 4:
                text = text[:place] if rng.random() < 0.3 else text
            case 5:
                text = b"\n".join([*rows[: row + 1], *rows[row:]])
            case 6:
                text = b"\n".join([*rows[:row], *rows[row + 1 :]])
            case 7:
                rows[row], rows[other] = rows[other], rows[row]
                text = b"\n".join(rows)
    return text


def lines_of(text: bytes) -> list[bytes]:
    text = text.removeprefix(b"\xef\xbb\xbf")
    return text.removesuffix(b"\n").split(b"\n") if text else []


def check(form: Format, folder: Any) -> str:
    """Read what is in `folder`, and account for every row; returns how it ended."""
    data, features = config(form, folder)
    bad = Quarantine(data.quarantine_limit)
    out: list[int] = []
    added = 0
    try:
        specs = column_specs(data, features, labelled=True)
        for chunk in open_source(data).chunks([spec.column for spec in specs.values()], bad):
            before = bad.count
            table = typed(chunk, specs, bad)
            assert table.num_rows + bad.count - before == len(chunk.rows)
            out += table["row_id"].to_pylist()
            added += chunk.added
    except SourceError as error:
        return "refused" if str(folder) in str(error) and "\n" not in str(error) else str(error)
    bad.write(folder)
    quarantined = [e.row for e in bad.examples if any(e.file.endswith(f"/{name}") for name in form.main)]
    assert out == sorted(set(out))
    if form.given.endswith(".gz"):  # what is not refused has passed its checksum
        rows = ROWS
    else:
        texts = [(folder / name).read_bytes() for name in form.main if (folder / name).exists()]
        rows = sum(form.rows(lines_of(text)[form.header :]) for text in texts)
    assert len(out) + len(quarantined) == rows + added
    if form.source != "kdd12":
        assert sorted([*out, *quarantined]) == list(range(rows))
    try:
        bad.check(len(out) + bad.count)
    except TooManyBadRows:
        return "stopped"
    return "quarantined" if bad.count else "whole"


@pytest.mark.parametrize("name", FORMATS)
def test_whole(tmp_path, name):
    form = FORMATS[name]
    for file, text in form.files.items():
        (tmp_path / file).write_bytes(text)
    assert check(form, tmp_path) == "whole"
    data, features = config(form, tmp_path)
    manifest = prepare(data, features, tmp_path / "out").manifest
    assert manifest["quarantined"] == 0
    assert manifest["rows_in"] + manifest["rows_added"] == manifest["rows_out"] >= ROWS


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, f"{name}/full") for name in ("taobao_ad", "kdd12", "kuairec", "open_bandit")),
        *(
            ("amazon_2014", "amazon/full"),
            ("amazon_2023", "amazon/full"),
            ("movielens_csv", "movielens/ml_25m"),
        ),
    ],
)
def test_recipes_fit_the_published_columns(tmp_path, name, recipe):
    form = FORMATS[name]
    for file, text in form.files.items():
        (tmp_path / file).write_bytes(text)
    experiment = load(CONFIGS / f"{recipe}.yaml", data=tmp_path / form.given)
    manifest = prepare(experiment.data, experiment.features, tmp_path / "out").manifest
    assert manifest["quarantined"] == 0
    assert min(split["rows"] for split in manifest["splits"].values()) > 0


def fuzz(form: Format, folder: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> str:
    rng = np.random.default_rng(seed)
    for file, text in form.files.items():
        (folder / file).write_bytes(damaged(text, rng) if rng.random() < 1 / len(form.files) else text)
    monkeypatch.setattr(
        "recsys_pipelines.sources.delimited.BLOCK", int(rng.choice([400, 4 << 20], p=[0.2, 0.8]))
    )
    return check(form, folder)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged(tmp_path, monkeypatch, name):
    ends = {fuzz(FORMATS[name], tmp_path, seed, monkeypatch) for seed in range(40)}
    assert "refused" in ends if name.endswith(".gz") else "quarantined" in ends
    assert ends <= ENDS


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_many_times(tmp_path, monkeypatch, name):
    assert {fuzz(FORMATS[name], tmp_path, seed, monkeypatch) for seed in range(1000, 2000)} <= ENDS


def test_every_source_is_here():
    assert {form.source for form in FORMATS.values()} == set(SOURCES) - {"criteo_x1"}
