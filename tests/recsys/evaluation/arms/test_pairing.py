import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.pairing import pair


def table(row_id, **columns):
    row_id = pa.array(row_id)
    default = {
        "label": [i % 2 for i in range(len(row_id))],
        "prediction": [i / max(10, len(row_id)) for i in range(len(row_id))],
    }
    return pa.table({"row_id": row_id, **default, **columns})


def test_pair_aligns_by_row_id():
    first = table(["x", "y", "z"], user_id=["u", "v", "u"])
    moved = first.take([2, 0, 1]).set_column(2, "prediction", pa.array([0.9, 0.7, 0.8], pa.float32()))
    paired = pair({"a": first, "b": [moved, first]})
    np.testing.assert_array_equal(paired.arms["a"], [[0, 0.1, 0.2]])
    np.testing.assert_allclose(paired.arms["b"], [[0.7, 0.8, 0.9], [0, 0.1, 0.2]], rtol=1e-6)
    np.testing.assert_array_equal(paired.labels, [False, True, False])
    np.testing.assert_array_equal(paired.clusters, [0, 1, 0])
    assert paired.row_ids.to_pylist() == ["x", "y", "z"]
    assert compare(paired.arms, paired.labels, paired.clusters, replicates=5).rows == 3


def test_pair_takes_chunks_dictionaries_and_other_widths():
    first = pa.concat_tables([table([1, 2]), table([3, 4])])
    other = table(pa.array([4, 3, 2, 1], pa.int32()), label=[True, False, True, False])
    paired = pair({"a": first, "b": other})
    assert paired.clusters is None
    np.testing.assert_array_equal(paired.arms["b"], [[0.3, 0.2, 0.1, 0]])
    words = table(pa.array(["x", "y"]).dictionary_encode())
    assert pair({"a": words, "b": table(["y", "x"], label=[1, 0])}).row_ids.to_pylist() == ["x", "y"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table([1, 2]), r"arm 'b', seed 0: lacks row ids 3 of arm 'a', seed 0"),
        (table([1, 2, 3, 4, 5]), r"arm 'a', seed 0: lacks row ids 4, 5 of arm 'b', seed 0"),
        (table([1, 2, 2]), r"arm 'b', seed 0: duplicate row ids 2"),
        (table([1, 2, 3], label=[0, 0, 0]), r"label of row id 2 is 0, but 1 in arm 'a'"),
        (table([1, 2, 3], user_id=[7, 8, 8]), r"user_id of row id 3 is 8, but 9 in arm 'a'"),
        (table([1, 2, None]), r"arm 'b', seed 0: row_id is missing at row 2"),
        (table([1, 2, 3], prediction=[0.1, None, 0.2]), r"arm 'b', seed 0: prediction is missing at row 1"),
        (table([1, 2, 3]).drop_columns("label"), r"needs one column 'label', has"),
        ([], "nothing to pair"),
    ],
)
def test_pair_refuses(other, message):
    with pytest.raises(ValueError, match=message):
        pair({"a": table([1, 2, 3], user_id=[7, 8, 9]), "b": other})


def test_pair_refuses_duplicates_in_the_only_table_and_odd_labels():
    with pytest.raises(ValueError, match=r"duplicate row ids 0, 1, 2, 3, 4, … \(9 in all\)"):
        pair({"a": table([*range(9), *range(9)])})
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        pair({"a": table([1, 2], label=[0, 3])})
    with pytest.raises(ValueError, match="nothing to pair"):
        pair({})


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=30, unique=True),
    as_text=st.booleans(),
    data=st.data(),
)
def test_pair_is_a_join_by_row_id(ids, as_text, data):
    """The oracle is a dict."""
    keys = [str(i) for i in ids] if as_text else ids
    order = data.draw(st.permutations(range(len(keys))))
    first = table(keys, user_id=[i // 2 for i in range(len(keys))])
    second = first.set_column(2, "prediction", pa.array(np.linspace(0, 1, len(keys)))).take(order)
    paired = pair({"a": first, "b": iter([second, first])})
    oracle = dict(zip(second["row_id"].to_pylist(), second["prediction"].to_pylist(), strict=True))
    assert paired.row_ids.to_pylist() == keys
    assert paired.arms["b"][0].tolist() == [oracle[key] for key in keys]
    assert paired.arms["b"][1].tolist() == first["prediction"].to_pylist()
    assert paired.clusters.tolist() == [i // 2 for i in range(len(keys))]


def test_text_is_paired_with_the_integer_that_it_writes():
    numbers = pa.array([2**63 + 5, 1, 2**64 - 1, 70], pa.uint64())
    texts = [str(number) for number in numbers.to_pylist()]
    for first, second in (
        (numbers, texts),
        (texts, numbers),
        (pa.array([3, 1, -2, 70]), ["3", "1", "-2", "70"]),
    ):
        one = table(first, user_id=first)
        other = (
            table(second, user_id=second)
            .set_column(2, "prediction", pa.array([0.4, 0.3, 0.2, 0.1]))
            .take([2, 0, 3, 1])
        )
        paired = pair({"a": one, "b": other})
        assert paired.arms["b"].tolist() == [[0.4, 0.3, 0.2, 0.1]]
        assert paired.clusters.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("text", ["01", "+1", "1.0", " 1", "x"])
def test_text_that_writes_no_integer_as_it_is_printed_is_another_id(text):
    texts, numbers = table([text, "2", "3"]), table([1, 2, 3])
    for first, second in ((texts, numbers), (numbers, texts)):
        with pytest.raises(
            ValueError, match=r"arm 'b', seed 0: lacks row ids .*, as the texts of integers: 1, not 01"
        ):
            pair({"a": first, "b": second})
    users = table([1, 2, 3], user_id=[text, "2", "3"])
    with pytest.raises(ValueError, match=r"user_id of row id 1 is"):
        pair({"a": users, "b": table([1, 2, 3], user_id=[1, 2, 3])})


def test_two_texts_of_the_same_bits_are_two_rows():
    texts = table([str(2**63), str(-(2**63)), "5"])
    with pytest.raises(ValueError, match="row ids"):
        pair({"a": texts, "b": table(pa.array([2**63, 5], pa.uint64()), label=[0, 1])})
    assert pair({"a": texts, "b": texts}).row_ids.to_pylist() == [str(2**63), str(-(2**63)), "5"]


def test_ids_that_look_like_numbers_stay_text():
    ids = ["0", "00", "1", "01", "1e3", "1000", "2024-01-08", "NA"]
    users = ["00", "0", "00", "0", "7", "07", "007", "0007"]
    first = table(ids, user_id=users)
    paired = pair({"a": first, "b": first.take([7, 6, 5, 4, 3, 2, 1, 0])})
    assert paired.row_ids.to_pylist() == ids
    assert len(set(paired.clusters.tolist())) == 6


def test_whole_decimals_are_integers():
    def decimals(values, scale=0):
        return pa.array([decimal.Decimal(value) for value in values], pa.decimal128(30, scale))

    first = table(decimals([3, 1, 2**40]), user_id=decimals([7, 8, 7], 2))
    paired = pair({"a": first, "b": table([3, 1, 2**40], user_id=[7, 8, 7])})
    assert paired.clusters.tolist() == [0, 1, 0]
    beyond = table(decimals([2**63, 1, 2]))
    assert pair({"a": beyond, "b": table(pa.array([2**63, 1, 2], pa.uint64()))}).row_ids[0].as_py() == str(
        2**63
    )
    for column in (decimals([1, 2, "3.5"], 1), [1.0, 2.0, 3.5], [1.0, 2.0, float("nan")]):
        with pytest.raises(
            ValueError, match=r"row_id is no 64-bit integer in some row \((3.5|nan) in row 2\); write it"
        ):
            pair({"a": table(column)})


def test_attributes_of_text_and_of_numbers_agree():
    texts = table([1, 2, 3, 4]).append_column("price", pa.array(["0.5", None, "2", "1e3"]))
    numbers = table([1, 2, 3, 4]).append_column("price", pa.array([0.5, None, 2.0, 1000.0]))
    assert pair({"a": texts, "b": numbers}, attributes=["price"]).attributes["price"][3].as_py() == "1e3"
    assert pair({"a": numbers, "b": texts}, attributes=["price"]).attributes["price"][3].as_py() == 1000
    other = table([1, 2, 3, 4]).append_column("price", pa.array(["0.5", "NA", "2", "1e3"]))
    with pytest.raises(ValueError, match="price of row id"):
        pair({"a": numbers, "b": other}, attributes=["price"])


def test_unsigned_ids_beyond_int64_are_ids():
    ids = pa.array([2**63 + 5, 1, 2**64 - 1, 7], pa.uint64())
    first = table(ids, user_id=ids)
    second = first.set_column(2, "prediction", pa.array([0.4, 0.3, 0.2, 0.1])).take([2, 0, 3, 1])
    paired = pair({"a": first, "b": second})
    assert paired.arms["b"].tolist() == [[0.4, 0.3, 0.2, 0.1]]
    assert paired.clusters.tolist() == [0, 1, 2, 3]
    small = table(pa.array([3, 4], pa.uint64()))
    assert pair({"a": small, "b": table([4, 3], label=[1, 0])}).row_ids.to_pylist() == [3, 4]
    with pytest.raises(ValueError, match=r"row_id is no 64-bit integer in some row .*; write it as text"):
        pair({"a": table([0.0, 2.0**63])})


def test_pair_keeps_attributes_of_whoever_has_them_and_refuses_others():
    first = table([1, 2, 3, 4])
    second = first.append_column("age", pa.array([1.0, None, float("nan"), 4.0])).take([3, 2, 1, 0])
    third = second.set_column(3, "age", pa.array([4.0, None, None, 2.0]))
    paired = pair({"a": first, "b": second}, attributes=["age"])
    assert paired.attributes["age"].to_pylist() == [1, None, None, 4]
    with pytest.raises(
        ValueError, match=r"c.csv: age of row id 1 is 2.0, but 1.0 in b.csv \(1 rows differ\)"
    ):
        pair(
            {"a": first, "b": [second, third]},
            {"a": ["a.csv"], "b": ["b.csv", "c.csv"]},
            ["age"],
        )
    with pytest.raises(ValueError, match="has no column 'sex', and no other arm has it"):
        pair({"a": first, "b": second}, attributes=["sex"])


def test_pair_refuses_what_cannot_be_judged():
    for columns, message in [
        ({"label": [1, 1, 1]}, r"every label \(row ids 1, 2, 3\) is 1"),
        ({"user_id": ["u", "u", "u"]}, r"all rows \(1, 2, 3\) belong to user u"),
        ({"prediction": [0.1, -0.1, 2.0]}, "prediction is -0.1 at row ids 2, 3: must be within"),
        (
            {"prediction": ["x", "y", "z"]},
            "prediction is large_string, not numbers: the first, of row id 1, is x",
        ),
        ({"row_id": [[1], [2], [3]]}, "row_id is list"),
    ]:
        row_id = columns.pop("row_id", [1, 2, 3])
        with pytest.raises(ValueError, match=message):
            pair({"a": table(row_id, **columns)})
