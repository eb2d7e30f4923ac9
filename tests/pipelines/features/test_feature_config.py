"""All kinds of features take `name` or `names` and `column` or `columns`, and old spellings mean what they meant."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.preparation.prepare import prepare

ONE: TypeAdapter[Any] = TypeAdapter(FeatureConfig)
SEVERAL = {
    "categorical": ({}, ""),
    "numeric": ({}, ""),
    "tokens": ({}, "_tokens"),
    "prefixes": ({"lengths": [1]}, "_prefixes"),
    "buckets": ({"quantiles": 2}, "_bucket"),
    "statistic": ({}, ":statistic"),
}
ROWS = 300


def parsed(**raw: Any) -> Any:
    found = ONE.validate_python(raw)
    for unset in (True, False):
        dumped = ONE.dump_python(found, mode="json", exclude_unset=unset)
        assert ONE.validate_python(dumped) == found
    return found


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_names_or_columns(kind: str) -> None:
    more, made = SEVERAL[kind]
    end = ":statistic" if kind == "statistic" else ""
    by_columns = parsed(kind=kind, columns=["a", "b"], **more)
    assert by_columns.names == (f"a{made}", f"b{made}")
    by_names = parsed(kind=kind, names=["a", "b"], **more)
    assert (by_names.names, by_names.columns) == ((f"a{end}", f"b{end}"), ("a", "b"))
    assert parsed(kind=kind, column="a", **more) == parsed(kind=kind, columns=["a"], **more)
    both = parsed(kind=kind, name="x", column="a.b:c", **more)
    assert (both.names, both.columns) == ((f"x{end}",), ("a.b:c",))
    for wrong in ({"names": ["x", "y"], "column": "a"}, {"name": "x", "names": ["x"]}, {"name": "x.y"}, {}):
        with pytest.raises(ValidationError):
            ONE.validate_python({"kind": kind, **more, **wrong})


def test_kinds_that_make_one_feature() -> None:
    assert parsed(kind="sequence", names=["seen"], columns=["item"]) == parsed(
        kind="sequence", name="seen", column="item"
    )
    assert parsed(kind="sequence", name="item").column == "item"
    assert parsed(kind="cross", names=["ab"], columns=["a", "b"]).name == "ab"
    with pytest.raises(ValidationError, match="this kind takes one name"):
        ONE.validate_python({"kind": "cross", "names": ["x", "y"], "columns": ["a", "b"]})
    with pytest.raises(ValidationError, match="columns"):
        ONE.validate_python({"kind": "cross", "name": "x"})


def test_dates_name_their_parts() -> None:
    parts = ["hour", "day"]
    assert parsed(kind="date", column="t", parts=parts).names == ("t_hour", "t_day")
    assert parsed(kind="date", name="t", parts=parts) == parsed(kind="date", column="t", parts=parts)
    named = parsed(kind="date", name="shown", column="t", parts=parts)
    assert (named.names, named.column) == (("shown_hour", "shown_day"), "t")
    assert parsed(kind="date", names=["h", "d"], columns=["t"], parts=parts).names == ("h", "d")
    for wrong in ({"names": ["h"], "column": "t"}, {"names": ["h", "d"]}, {"name": "h", "names": ["h", "d"]}):
        with pytest.raises(ValidationError):
            ONE.validate_python({"kind": "date", "parts": parts, **wrong})


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": "categorical", "names": ["a"]},
        {"kind": "numeric", "names": ["a", "b"]},
        {"kind": "tokens", "columns": ["a"]},
        {"kind": "date", "column": "a", "parts": ["hour"]},
        {"kind": "statistic", "columns": ["a"]},
        {"kind": "cross", "name": "x", "columns": ["a", "b"]},
        {"kind": "sequence", "name": "x", "column": "a"},
    ],
)
def test_a_dump_holds_the_keys_it_always_held(raw: dict[str, Any]) -> None:
    """Folders are named by digests of dumps: what follows from other keys must not be among them."""
    assert ONE.dump_python(ONE.validate_python(raw), mode="json", exclude_unset=True) == raw


def test_a_feature_of_another_name_is_that_of_its_column(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = {
        "label": random.integers(0, 2, ROWS),
        "user": random.integers(0, 9, ROWS),
        "item": [f"i{k}" for k in random.integers(0, 7, ROWS)],
        "x": random.random(ROWS),
        "t": np.arange(ROWS),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    raw = {
        "source": "table",
        "path": tmp_path / "log.parquet",
        "user": "user",
        "time": "t",
        "split": {"by": "time"},
    }
    features = [
        {"kind": "categorical", "names": ["item"]},
        {"kind": "numeric", "names": ["x"]},
        {"kind": "sequence", "name": "seen", "column": "item", "length": 3, "like": "item"},
        {"kind": "statistic", "columns": ["item"]},
    ]
    renamed = [
        {"kind": "categorical", "name": "thing", "column": "item"},
        {"kind": "numeric", "name": "number", "column": "x"},
        {"kind": "sequence", "name": "seen", "column": "item", "length": 3, "like": "thing"},
        {"kind": "statistic", "name": "of_item", "column": "item"},
    ]
    configs: TypeAdapter[Any] = TypeAdapter(tuple[FeatureConfig, ...])
    data = DataConfig.model_validate(raw)
    plain, other = (
        prepare(data, configs.validate_python(some), tmp_path / "prepared").features()
        for some in (features, renamed)
    )
    rows = pa.table({k: v for k, v in columns.items() if k in ("item", "x")}).append_column(
        "seen", pa.array([["i1", "i2"]] * ROWS)
    )
    mine, theirs = other.transform(rows), plain.transform(rows)
    names = {
        "item": "thing",
        "x": "number",
        "seen": "seen",
        "item:ctr": "of_item:ctr",
        "item:count": "of_item:count",
    }
    for name, new in names.items():
        assert mine[new].to_pylist() == theirs[name].to_pylist()
