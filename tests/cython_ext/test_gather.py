import itertools
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext.gather import TableGather

IDS = {
    "l4": pa.list_(pa.int32()),
    "s8": pa.int64(),
    "s4": pa.int32(),
    "l8": pa.list_(pa.int64()),
    "w4": pa.list_(pa.int32()),
}
NUMBERS = {"x": pa.float32(), "y": pa.float32()}
WEIGHTS = {"w4:weights": pa.list_(pa.float32())}
SCHEMA = pa.schema(IDS | NUMBERS | WEIGHTS)
SMALL, LARGE = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(width=32, allow_nan=False)
ROW = st.fixed_dictionaries(
    {
        "l4": st.lists(SMALL, max_size=4),
        "s8": LARGE,
        "s4": SMALL,
        "l8": st.lists(LARGE, max_size=3),
        "w4": st.lists(st.tuples(SMALL, FLOAT), max_size=3),
        "x": FLOAT,
        "y": FLOAT,
    }
)


def table_of(chunks):
    """Each chunk is (rows, rows to cut off at its front, and at its end): slices have offsets."""
    parts = []
    for rows, front, back in chunks:
        columns = [
            {**row, "w4": [i for i, _ in row["w4"]], "w4:weights": [w for _, w in row["w4"]]} for row in rows
        ]
        part = pa.Table.from_pylist(columns, SCHEMA)
        parts.append(part.slice(front, max(part.num_rows - front - back, 0)))
    return pa.concat_tables([SCHEMA.empty_table(), *parts])


def gather_of(table, weighted=True):
    return TableGather(table, list(IDS), list(NUMBERS), {"w4": "w4:weights"} if weighted else None)


def oracle(table, index, donors, donated):
    """Lengths, values, weights and numbers of lists of Python objects."""
    columns = table.to_pydict()
    picked = {name: [c[i] for i in (donors if name in donated else index)] for name, c in columns.items()}
    picked["w4:weights"] = [columns["w4:weights"][i] for i in (donors if "w4" in donated else index)]
    bags = {name: [b if isinstance(b, list) else [b] for b in picked[name]] for name in IDS}
    weights = {name: [[1.0] * len(bag) for bag in bags[name]] for name in IDS} | {"w4": picked["w4:weights"]}

    def flat(of):
        return [value for name in IDS for bag in of[name] for value in bag]

    lengths = [[len(bag) for bag in bags[name]] for name in IDS]
    return (
        lengths,
        flat(bags),
        flat(weights),
        [list(row) for row in zip(picked["x"], picked["y"], strict=True)],
    )


# Against the oracle


@given(
    chunks=st.lists(st.tuples(st.lists(ROW, max_size=6), st.integers(0, 2), st.integers(0, 2)), max_size=4),
    donated=st.sets(st.sampled_from([*IDS, *NUMBERS])),
    weighted=st.booleans(),
    data=st.data(),
)
def test_agrees_with_the_oracle(chunks, donated, weighted, data):
    table = table_of(chunks)
    n = table.num_rows
    position = st.integers(0, max(n - 1, 0))
    index = data.draw(st.lists(position, max_size=12 if n else 0) | st.just(list(range(n))))
    donors = data.draw(st.lists(position, min_size=len(index), max_size=len(index)))
    gather = gather_of(table, weighted)
    assert len(gather) == n
    got = gather(np.array(index, np.int64), np.array(donors, np.int64), donated)
    lengths, values, weights, numbers = oracle(table, index, donors, donated)
    assert got.lengths.tolist() == lengths
    assert got.values.tolist() == values
    assert got.totals.tolist() == [sum(own) for own in lengths]
    assert (got.weights is None) if not weighted else got.weights.tolist() == weights
    assert got.numbers.tolist() == numbers
    assert [a.dtype for a in got if a is not None] == [
        *(np.int32, np.int64, np.int64),
        *([np.float32] if weighted else []),
        np.float32,
    ]


@pytest.mark.parametrize("rows", [[0, 700, 0, 1, 299], [1000], [1] * 50])
def test_many_rows_over_shards(rows):
    """More than a block of the dense matrix."""
    n, random = sum(rows), np.random.default_rng(0)
    bounds = np.cumsum([0, *rows])
    item, x = np.arange(n), random.random(n).astype(np.float32)
    table = pa.table({"s": pa.array(item, pa.int32()), "x": x})
    table = pa.concat_tables([table.slice(a, b - a) for a, b in itertools.pairwise(bounds)])
    gather = TableGather(table, ["s"], ["x"])
    for index in (random.permutation(n), np.arange(n), random.integers(0, n, 3 * n), np.arange(n)[::-1]):
        got = gather(index)
        assert np.array_equal(got.values, index)
        assert np.array_equal(got.numbers[:, 0], x[index])


def test_no_columns_at_all():
    table = pa.table({"x": pa.array([1, 2], pa.float32())})
    got = TableGather(table, [])(np.array([1, 1, 0]))
    assert (got.lengths.shape, got.values.shape, got.numbers.shape) == ((0, 3), (0,), (3, 0))


def test_lists_that_are_all_empty():
    table = pa.table({"l": pa.array([[], []], pa.list_(pa.int64()))})
    got = TableGather(table, ["l"])(np.array([1, 0, 1]))
    assert (got.lengths.tolist(), got.values.tolist()) == ([[0, 0, 0]], [])


def test_donors_without_features_to_donate():
    table = pa.table({"s": [1, 2]})
    gather = TableGather(table, ["s"])
    assert gather(np.array([0]), None, ["s"]).values.tolist() == [1]
    assert gather(np.array([0]), np.array([1])).values.tolist() == [1]


def test_a_pickle_finds_its_own_addresses():
    gather = pickle.loads(pickle.dumps(TableGather(pa.table({"s": [5, 6]}), ["s"])))
    assert gather(np.array([1, 0])).values.tolist() == [6, 5]


# Errors


@pytest.mark.parametrize("bad", [3, -1, 2**40, -(2**63)])
def test_positions_outside_are_named(bad):
    gather = TableGather(pa.table({"s": [1, 2, 3]}), ["s"])
    with pytest.raises(IndexError, match=f"position {bad} at 2 is outside the table's 3 rows"):
        gather(np.array([0, 1, bad, 7]))
    with pytest.raises(IndexError, match=f"position {bad} at 1"):
        gather(np.array([0, 1]), np.array([0, bad]))
    empty = TableGather(pa.table({"s": pa.array([], pa.int64())}), ["s"])
    with pytest.raises(IndexError, match="position 0 at 0 is outside the table's 0 rows"):
        empty(np.array([0]))


@pytest.mark.parametrize("bad", [np.array([0.0]), np.array([True]), np.array([[0]])])
def test_positions_that_are_no_integers(bad):
    with pytest.raises(TypeError, match="positions must be integers"):
        TableGather(pa.table({"s": [1]}), ["s"])(bad)


@pytest.mark.parametrize(
    ("ids", "numbers", "weights", "what"),
    [
        (["x"], [], {}, "'x' is float"),
        (["s"], ["s"], {}, "'s' is int64"),
        (["s"], ["w"], {}, "'w' is list"),
        (["l"], [], {"l": "x"}, "'x' is float"),
        (["t"], [], {}, "'t' is string"),
        (["big"], [], {}, "'big' is large_list"),
    ],
)
def test_columns_of_other_types(ids, numbers, weights, what):
    table = pa.table(
        {
            "s": [1],
            "l": [[1]],
            "x": pa.array([1.0], pa.float32()),
            "w": pa.array([[1.0]], pa.list_(pa.float32())),
            "t": ["a"],
            "big": pa.array([[1]], pa.large_list(pa.int64())),
        }
    )
    with pytest.raises(TypeError, match=f"column {what}"):
        TableGather(table, ids, numbers, weights)


@pytest.mark.parametrize("column", [pa.array([1, None]), pa.array([[1], None]), pa.array([[1, None], []])])
def test_nulls_are_refused(column):
    with pytest.raises(ValueError, match="column 'c' holds 1 nulls"):
        TableGather(pa.table({"c": column}), ["c"])


def test_a_column_that_is_not_there():
    with pytest.raises(KeyError, match="nothing"):
        TableGather(pa.table({"s": [1]}), ["nothing"])


@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [0, 1, 9, 3], [0, -1, 1, 3]])
def test_corrupt_offsets_are_named(offsets):
    ends, values = pa.array(offsets, pa.int32()), pa.array([7, 8, 9])
    kind = pa.list_(pa.int64())
    corrupt = pa.Array.from_buffers(kind, 3, [None, ends.buffers()[1]], children=[values])
    gather = TableGather(pa.table({"c": corrupt}), ["c"])
    with pytest.raises(ValueError, match=r"column 'c': the offsets of row \d fall or leave its values"):
        gather(np.arange(3))


def test_weights_as_many_as_ids():
    table = pa.table({"l": [[1], [1, 2], [3]], "w": pa.array([[1.0], [1.0], [1.0]], pa.list_(pa.float32()))})
    gather = TableGather(table, ["l"], (), {"l": "w"})
    assert gather(np.array([2, 0])).weights.tolist() == [1, 1]
    with pytest.raises(ValueError, match="row 1: 2 ids in 'l', but 1 weights"):
        gather(np.array([0, 1]))
