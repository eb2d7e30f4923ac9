import numpy as np
import pyarrow as pa
import pytest

from recsys.evaluation.comparison import compare
from recsys.evaluation.pairing import pair


def table(row_id, **columns):
    row_id = pa.array(row_id)
    default = {
        "label": [i % 2 for i in range(len(row_id))],
        "prediction": [i / 10 for i in range(len(row_id))],
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
