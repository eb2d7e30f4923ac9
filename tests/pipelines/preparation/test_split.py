"""A split by time begins where a time does, at the nearest places, and no part is empty where times allow it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_pipelines.config import CategoricalConfig, DataConfig, SplitConfig
from recsys_pipelines.preparation.doubts import split_doubts
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import SplitCounts
from recsys_pipelines.preparation.split import split_bounds, split_of
from recsys_pipelines.shards import write_shard


def parts_of(sizes: list[int], split: SplitConfig, folder: Path) -> list[int]:
    """Rows of each part, of days that have so many rows, in an order of their own, in two staged files."""
    days = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 86_400, sizes))
    files = []
    for number, some in enumerate(np.array_split(days, 2)):
        write_shard(pa.table({"@time": some, "row_id": np.arange(len(some))}), folder / f"{number}.arrow")
        files.append(folder / f"{number}.arrow")
    bounds = split_bounds(split, files)
    return np.bincount(split_of(pa.table({"@time": days}), split, bounds), minlength=3).tolist()


@pytest.mark.parametrize(
    ("sizes", "shares", "expected"),
    [
        ([107, 1440, 453], (0.6, 0.2, 0.2), [107, 1440, 453]),  # the only way to cut three days
        ([500, 400, 100, 100], (0.8, 0.1, 0.1), [900, 100, 100]),
        ([10, 780, 20, 100, 90], (0.8, 0.1, 0.1), [790, 120, 90]),  # the later cut is the nearer one
        ([790, 10, 60, 50, 90], (0.8, 0.1, 0.1), [800, 110, 90]),
        ([1] * 1000, (0.6, 0.3, 0.1), [600, 300, 100]),
        ([999, 1, 1], (0.8, 0.1, 0.1), [999, 1, 1]),
        ([1, 1, 999], (0.8, 0.1, 0.1), [1, 1, 999]),
    ],
)
def test_cuts_at_the_nearer_place(
    sizes: list[int], shares: tuple[float, ...], expected: list[int], tmp_path: Path
) -> None:
    split = SplitConfig(by="time", train=shares[0], validation=shares[1], test=shares[2])
    assert parts_of(sizes, split, tmp_path) == expected


@given(
    st.lists(st.integers(1, 40), min_size=3, max_size=8),
    st.sampled_from([(0.8, 0.1), (0.5, 0.25), (0.1, 0.1)]),
)
def test_no_other_cut_is_nearer(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shares: tuple[float, float]
) -> None:
    train, validation = shares
    split = SplitConfig(by="time", train=train, validation=validation, test=1 - train - validation)
    found = parts_of(sizes, split, tmp_path_factory.mktemp("parts"))
    assert min(found) > 0
    cuts = np.cumsum(sizes)[:-1].tolist()
    wanted = np.rint(np.array([train, train + validation]) * sum(sizes))

    def distance(a: int, b: int) -> float:
        return abs(a - wanted[0]) + abs(b - wanted[1])

    best = min(distance(a, b) for a in cuts for b in cuts if a < b)
    assert distance(found[0], found[0] + found[1]) == best


@pytest.mark.parametrize("sizes", [[100], [60, 40]])
def test_too_few_times_name_the_empty_part(sizes: list[int], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the \w+ part gets none of 100 rows; rows of one time stay together"
    ):
        parts_of(sizes, SplitConfig(by="time"), tmp_path)


def test_shares_far_off_are_told_and_kept(tmp_path: Path) -> None:
    days = np.repeat([1, 2, 3], [107, 1440, 453])
    columns = {"label": np.arange(2000) % 2, "c": np.arange(2000) % 9, "t": days}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    split = SplitConfig(by="time", train=0.6, validation=0.2, test=0.2)
    data = DataConfig(source="table", path=tmp_path / "log.parquet", time="t", split=split)
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    for _ in range(2):  # the second call reads the manifest
        (doubt,) = prepare(data, features, tmp_path / "prepared").manifest.doubts
        assert "by time gives train 107 rows (5%), validation 1,440 rows (72%), test 453 rows (23%)" in doubt
        assert "where 60%, 20%, 20% were asked for" in doubt


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((800, 100, 100), 0),
        ((700, 150, 150), 0),
        ((700, 151, 149), 1),
        ((872, 64, 64), 1),
        ((400, 300, 300), 1),
    ],
)
def test_more_or_less_than_half_as_much_again_is_far_off(rows: tuple[int, int, int], told: int) -> None:
    splits = {
        name: SplitCounts(rows=n, positives=n // 2)
        for name, n in zip(("train", "validation", "test"), rows, strict=True)
    }
    assert len(split_doubts(SplitConfig(), splits)) == told


@pytest.mark.parametrize(
    ("part", "positives"), [("train", 0), ("train", 800), ("validation", 0), ("test", 100)]
)
def test_parts_of_one_class_are_told(part: str, positives: int) -> None:
    sizes = {"train": 800, "validation": 100, "test": 100}
    splits = {
        name: SplitCounts(rows=n, positives=positives if name == part else n // 2)
        for name, n in sizes.items()
    }
    (doubt,) = split_doubts(SplitConfig(), splits)
    assert f"the {part} part has one class: all {sizes[part]} labels are {int(positives > 0)}" in doubt
