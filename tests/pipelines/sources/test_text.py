"""Every text format, whole and damaged in every way: no row gets lost, and nothing but plain words is raised."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import TypeAdapter

from recsys.config import load_experiment
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import Features, Statistic, sequences_of
from recsys_pipelines.features.convert import columns_of, typed
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.roles import column_specs
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.quarantine import Quarantine, TooManyBadRows
from recsys_pipelines.shards import read_shard
from recsys_pipelines.sources import SOURCES, SourceError, open_source
from recsys_pipelines.sources.avazu import FEATURES as AVAZU
from recsys_pipelines.sources.criteo import COLUMNS as CRITEO
from recsys_pipelines.sources.kuairec import MATRIX

CONFIGS = Path(__file__).parents[3] / "configs"
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
        for chunk in open_source(data).chunks(columns_of(specs), bad):
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
    assert manifest.quarantined == 0
    assert manifest.rows_in + manifest.rows_added == manifest.rows_out >= ROWS


# Files with the columns that the recipes of MovieLens-100K read.
ML_100K = {
    "ml-100k.inter": lines(
        lambda k: f"{k % 5}\t{k % 7}\t{k % 5 + 1}\t{TIME + k}",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
    ),
    "ml-100k.user": lines(
        lambda k: f"{k}\t{k + 20}\tF\twriter\t{k:05}",
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        rows=5,
    ),
    "ml-100k.item": lines(
        lambda k: f"{k}\tA tale {k}\t{1990 + k}\tDrama War",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        rows=7,
    ),
}


def published(source: str, folder: Path) -> Path:
    """A small file of a source's published format, written to `folder`."""
    if source == "recbole":
        files, given = ML_100K, ""
    elif source == "table":  # Frappe's, which every reader of tables takes
        rows = [f"{i % 2}," + ",".join(str(10 * f + i % (f + 2)) for f in range(10)) for i in range(40)]
        head = ",".join(("label", *(f"f{f}" for f in range(10))))
        files, given = {"frappe.csv": "\n".join([head, *rows, ""]).encode()}, "frappe.csv"
    else:
        form = next(form for form in FORMATS.values() if form.source == source)
        files, given = dict(form.files), form.given
    for file, text in files.items():
        (folder / file).write_bytes(text)
    return folder / given


@pytest.mark.parametrize("recipe", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recipe_serves_the_numbers_it_was_prepared_with(tmp_path, recipe):
    """The shards, and the source's rows as requests: a list of dicts, one dict, a table, a lazy Polars frame."""
    source = load_source(recipe)
    if source == "generated":
        experiment = load_experiment(recipe)
        small = experiment.data.generator.model_copy(update={"rows": 400})
        data = experiment.data.model_copy(update={"generator": small})
    else:
        experiment = load_experiment(recipe, data=published(source, tmp_path))
        data = experiment.data
    prepared = prepare(data, experiment.features, tmp_path / "out")
    manifest = prepared.manifest
    assert manifest.quarantined == 0
    assert min(split.rows for split in manifest.splits.values()) > 0

    features = Features.load(prepared.path / "features")
    columns = columns_of(features.serving_specs())
    log = data
    if source == "generated":
        (written,) = (tmp_path / "out").glob("generated-*.parquet")
        log = data.model_copy(update={"source": "table", "path": written, "generator": None})
    lists = [sequence.name for sequence in sequences_of(experiment.features)]
    stored = [name for name in columns if name not in lists]
    roles = [data.user, data.time, data.label.column] if lists else []
    chunks = list(open_source(log).chunks(list(dict.fromkeys([*stored, *roles])), Quarantine()))
    table = pa.concat_tables(chunk.table for chunk in chunks)
    for sequence in sequences_of(experiment.features):  # which a request brings
        users, times, labels, events = (table[name].to_pylist() for name in (*roles, sequence.column))
        kept = [not sequence.only_positive or float(label) >= data.label.threshold for label in labels]
        rows = list(zip(users, map(float, times), events, kept, strict=True))
        before = [[e for u, t, e, k in rows if u == user and t < time and k] for user, time, *_ in rows]
        table = table.append_column(sequence.name, pa.array(before, pa.list_(pa.string())))
    place = {row: k for k, row in enumerate(np.concatenate([chunk.rows for chunk in chunks]).tolist())}
    # of training rows, statistics of labels are out of fold, and so another number than any request gets
    out_of_fold = [name for f in features.features if isinstance(f, Statistic) for name in f.columns]
    for split in SPLITS:
        shards = pa.concat_tables(
            read_shard(file) for file in sorted((prepared.path / split).glob("*.arrow"))
        )
        raw = table.take(pa.array([place[row] for row in shards["row_id"].to_pylist()]))
        hidden = out_of_fold if split == "train" else []
        expected = shards.select(list(manifest.columns)).drop_columns(hidden)
        rows = raw.to_pylist()
        assert features.transform(raw).drop_columns(hidden).equals(expected)
        assert features.transform(rows).drop_columns(hidden).equals(expected)
        for k in (0, len(rows) - 1):
            assert features.transform(rows[k]).drop_columns(hidden).equals(expected.slice(k, 1))
        lazy = features.transform(pl.from_arrow(raw).lazy())
        assert lazy.drop(hidden).collect().equals(pl.from_arrow(expected))


def load_source(recipe: Path) -> str:
    """The source of a recipe that extends another."""
    raw = yaml.safe_load(recipe.read_text())
    return raw.get("data", {}).get("source") or load_source(recipe.parent / raw["extends"])


def fuzz(form: Format, folder: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> str:
    rng = np.random.default_rng(seed)
    for file, text in form.files.items():
        (folder / file).write_bytes(damaged(text, rng) if rng.random() < 1 / len(form.files) else text)
    monkeypatch.setattr(
        "recsys_pipelines.sources.blocks.BLOCK", int(rng.choice([400, 4 << 20], p=[0.2, 0.8]))
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


def mutated(row: bytes, rng: np.random.Generator) -> bytes:
    """A line with one to three injuries that leave it one line."""
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(row) + 1))
        junk = JUNK[rng.integers(len(JUNK))].replace(b"\n", b"")
        match rng.integers(4):
            case 0:
                row = row[:place] + junk + row[place:]
            case 1:
                row = row[:place] + row[place + int(rng.integers(1, 8)) :]
            case 2:
                row = row[:place] + rng.bytes(3).replace(b"\n", b"\r") + row[place:]
            case 3:
                row = row[:place] + row[place + 1 :] + row[place : place + 1]
    return row


@pytest.mark.slow
def test_ten_thousand_mutated_rows(tmp_path):
    """Through the whole preparation: every line is a row that came out or one in quarantine."""
    totals = {"rows": 0, "out": 0, "quarantined": 0}
    for seed, (name, form) in enumerate(FORMATS.items()):
        if name.endswith(".gz") or form.source in ("ngcf", "kdd12"):  # whose lines are not one row each
            continue
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        folder.mkdir()
        files = dict(form.files)
        for file in form.main:
            lines_ = files[file].removesuffix(b"\n").split(b"\n")
            head, rows = lines_[: form.header], lines_[form.header :] * 16
            files[file] = b"\n".join(head + [mutated(row, rng) for row in rows]) + b"\n"
        for file, text in files.items():
            (folder / file).write_bytes(text)
        data, features = config(form, folder)
        data = data.model_copy(update={"quarantine_limit": 1.0})
        manifest = prepare(data, features, folder / "out").manifest
        lines_in = sum(len(lines_of(files[file])) - form.header for file in form.main)
        assert manifest.rows_in == manifest.rows_out + manifest.quarantined == lines_in, name
        assert sum(split.rows for split in manifest.splits.values()) == manifest.rows_out
        totals["rows"] += lines_in
        totals["out"] += manifest.rows_out
        totals["quarantined"] += manifest.quarantined
    assert totals["rows"] >= 10_000
    assert totals["out"] > 0.2 * totals["rows"]
    print(totals)


def end_of(data: DataConfig, features: Any, folder: Path) -> str:
    """How a preparation ends; an error that is none of ours goes through."""
    try:
        manifest = prepare(data, features, folder / "out").manifest
    except SourceError as error:
        return "refused" if str(folder) in str(error) else str(error)
    except TooManyBadRows:
        return "too many bad rows"
    except ValueError as error:
        return "too few rows" if re.search(r"data\.split|no readable row", str(error)) else str(error)
    assert manifest.rows_in + manifest.rows_added == manifest.rows_out + manifest.quarantined
    return "quarantined" if manifest.quarantined else "whole"


@pytest.mark.slow
def test_three_hundred_mutated_files(tmp_path):
    """Text, compressed text, Parquet and Arrow through the whole preparation: a manifest that adds up, or plain words."""
    rows = pa.table({"label": [k % 2 for k in range(ROWS)], "c": [f"é{k}" for k in range(ROWS)]})
    pq.write_table(rows, tmp_path / "t.parquet")
    feather.write_feather(rows, tmp_path / "t.arrow", compression="uncompressed")
    table = {"source": "table", "categorical": ("c",), "main": (), "header": 0}
    forms = dict(FORMATS)
    for file in ("t.parquet", "t.arrow"):
        forms[file] = Format(files={file: (tmp_path / file).read_bytes()}, given=file, **table)
    ends: Counter[str] = Counter()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        form = list(forms.values())[seed % len(forms)]
        folder = tmp_path / str(seed)
        folder.mkdir()
        hurt = list(form.files)[rng.integers(len(form.files))]
        for file, text in form.files.items():
            (folder / file).write_bytes(damaged(text, rng) if file == hurt else text)
        data, features = config(form, folder)
        ends[end_of(data, features, folder)] += 1
    assert set(ends) <= {"refused", "too many bad rows", "too few rows", "quarantined", "whole"}
    assert min(ends["refused"], ends["quarantined"], ends["whole"]) > 0
    print(dict(ends))


def test_every_source_is_here():
    assert {form.source for form in FORMATS.values()} == set(SOURCES) - {"criteo_x1"}
