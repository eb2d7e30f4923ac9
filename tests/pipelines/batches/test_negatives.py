from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from recsys_pipelines.batches.loader import Loader, Rows
from recsys_pipelines.batches.negatives import InBatchNegatives, Items, NegativeSampler, in_batch_log_q

ITEMS = 12
COUNTS = np.arange(1, ITEMS + 1) ** 2 * 4


def log_of(counts=COUNTS, seed=0):
    """Rows of items 100, 101, … as often as `counts`, shuffled; tags and price belong to the item, user to the row."""
    random = np.random.default_rng(seed)
    item = random.permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(item)
    table = pa.table(
        {
            "row_id": random.permutation(n) + 10**6,
            "user_id": np.arange(n),
            "item_id": pa.array(item + 100, pa.int32()),
            "tags": pa.array([[i] * (i % 3) for i in item], pa.list_(pa.int64())),
            "price": pa.array(item * 0.5, pa.float32()),
            "hour": pa.array(np.arange(n), pa.float32()),
            "@label": np.ones(n, np.int8),
            "@weight": random.integers(1, 5, n).astype(np.float64),
        }
    )
    ids = {"user_id": False, "item_id": False, "tags": True}
    categorical = [
        SimpleNamespace(name=name, multivalued=many, weighted=False, columns=[name])
        for name, many in ids.items()
    ]
    numeric = [SimpleNamespace(name=name, columns=[name]) for name in ("price", "hour")]
    features = SimpleNamespace(
        features=(*categorical, *numeric), categorical=categorical, numeric_columns=("price", "hour")
    )
    return Rows.from_table(features, table)


@pytest.fixture(scope="module")
def rows():
    return log_of()


def sampler(rows, by="popularity", **keys):
    settings = {"item_features": ("item_id", "tags", "price"), "num_negatives": 3} | keys
    return NegativeSampler(rows, by=by, **settings)


# Content


def test_a_negative_is_its_row_with_the_features_of_another_item(rows):
    made = sampler(rows)
    index = np.array([5, 900, 17])
    batch = made.batch(index, epoch=2)
    assert batch.rows == batch.ids.stride() == 12
    source = np.concatenate([index, np.repeat(index, 3)])
    assert batch.label.tolist() == [1] * 3 + [0] * 9
    assert batch.weight.tolist() == rows.weight[source].tolist()
    assert batch.ids["user_id"].values().tolist() == source.tolist()
    assert batch.dense[:, 1].tolist() == source.tolist()
    item = batch.ids["item_id"].values().numpy() - 100
    own = made.items.of_row[source]
    assert item[:3].tolist() == own[:3].tolist()
    assert (item[3:] != own[3:]).all()
    assert batch.dense[:, 0].tolist() == (item * 0.5).tolist()
    assert [bag.tolist() for bag in batch.ids["tags"].to_dense()] == [[i] * (i % 3) for i in item]
    np.testing.assert_allclose(batch.log_q.numpy(), np.log(made.q[item]), rtol=1e-6)


def test_padding_stays_padding(rows):
    made = sampler(rows)
    batch = made.batch(np.array([-1, 4, -1]), epoch=0)
    alone = made.batch(np.array([4]), epoch=0)
    assert batch.rows == 4
    real = [1, 6, 7, 8]
    assert np.flatnonzero(batch.weight).tolist() == real
    assert batch.label.tolist() == [0, 1] + [0] * 10
    assert batch.ids["item_id"].values().tolist() == alone.ids["item_id"].values().tolist()
    assert batch.log_q[real].tolist() == alone.log_q.tolist()
    assert batch.log_q.count_nonzero() == 4


def test_items_of_rows(rows):
    items = Items(rows, "item_id")
    assert items.ids.tolist() == list(range(100, 100 + ITEMS))
    assert items.counts.tolist() == COUNTS.tolist()
    first = [rows.ids_of("item_id").tolist().index(i) for i in items.ids]
    assert items.donor.tolist() == first


# Distribution


@pytest.mark.parametrize(("by", "alpha"), [("uniform", 0.75), ("popularity", 0.75), ("popularity", 1.0)])
def test_items_are_drawn_as_often_as_they_should(rows, by, alpha):
    """Given the row's own item o, another is drawn with q_i / (1 - q_o), but for the q_o^4 that TRIES leave over."""
    made = sampler(rows, by, alpha=alpha, num_negatives=8, seed=5)
    q = np.full(ITEMS, 1 / ITEMS) if by == "uniform" else COUNTS**alpha / (COUNTS**alpha).sum()
    np.testing.assert_allclose(made.q, q)
    index = np.flatnonzero(made.items.of_row == 2)
    found = np.zeros(ITEMS)
    for epoch in range(60):
        drawn = made.items.of_row[made.expand(index, epoch).donors[len(index) :]]
        found += np.bincount(drawn, minlength=ITEMS)
    others = np.arange(ITEMS) != 2
    expected = q[others] / (1 - q[2]) * found.sum()
    assert found[2] == 0
    assert chisquare(found[others], expected).pvalue > 0.01
    wrong = np.roll(expected, 1)
    assert by == "uniform" or chisquare(found[others], wrong).pvalue < 1e-6


def test_log_q_is_the_log_of_the_frequency_of_draws(rows):
    made = sampler(rows, num_negatives=1)
    u = np.concatenate([made._draw(rows.row_id, epoch, 0) for epoch in range(40)])
    share = np.bincount(u, minlength=ITEMS) / len(u)
    index = np.arange(200)
    log_q = made.expand(index, 0).log_q[:200]
    np.testing.assert_allclose(log_q, np.log(share[made.items.of_row[index]]), atol=0.15)


def test_in_batch_log_q_is_the_log_of_the_share_of_impressions(rows):
    items = Items(rows, "item_id")
    index = np.array([3, -1, 800, 3])
    share = COUNTS / COUNTS.sum()
    expected = np.log(share[items.of_row[index]])
    expected[1] = 0
    found = in_batch_log_q(items, index)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    batch = InBatchNegatives(rows, "item_id").batch(index, 0)
    assert batch.log_q.tolist() == found.tolist()
    assert batch.rows == 3
    loaded = np.concatenate(
        [
            b.ids["item_id"].values()
            for b in Loader(rows, 256, 0, negatives=InBatchNegatives(rows, "item_id")).epoch(0)
        ]
    )
    frequency = np.bincount(loaded - 100) / len(loaded)
    np.testing.assert_allclose(np.log(frequency)[items.of_row[index[0]]], found[0], rtol=1e-6)


def test_an_item_that_stays_the_own_one_becomes_the_next():
    """All but 3 rows have item 0, so that four draws often give nothing else."""
    rows = log_of(np.array([3000, 1, 1, 1]))
    made = sampler(rows, alpha=1.0)
    index = np.flatnonzero(made.items.of_row == 0)
    drawn = made.items.of_row[made.expand(index, 0).donors[len(index) :]]
    assert set(drawn.tolist()) <= {1, 2, 3}
    assert np.mean(drawn == 1) > 0.9


# Purity


def test_draws_are_a_function_of_seed_epoch_row_and_number(rows):
    made, again = sampler(rows), sampler(rows)
    index = np.arange(0, 600, 7)
    donors = made.expand(index, 4).donors[len(index) :].reshape(-1, 3)
    backwards = again.expand(index[::-1], 4).donors[len(index) :].reshape(-1, 3)
    assert backwards[::-1].tolist() == donors.tolist()
    fewer = sampler(rows, num_negatives=2).expand(index, 4).donors[len(index) :].reshape(-1, 2)
    assert fewer.tolist() == donors[:, :2].tolist()
    others = [made.expand(index, 5), sampler(rows, seed=1).expand(index, 4)]
    for other in [donors[:, 1], *(o.donors[len(index) :].reshape(-1, 3)[:, 0] for o in others)]:
        assert np.mean(other == donors[:, 0]) < 0.5


def test_ranks_draw_the_same_negatives(rows):
    def drawn(ranks):
        found = set()
        for rank in range(ranks):
            loader = Loader(rows, 256, 0, rank=rank, ranks=ranks, negatives=sampler(rows))
            for batch in loader.epoch(1):
                real = np.flatnonzero(batch.weight)
                item = batch.ids["item_id"].values().tolist()
                user = batch.ids["user_id"].values().tolist()
                found |= set(
                    zip(user, batch.label[real].tolist(), item, batch.log_q[real].tolist(), strict=True)
                )
        return found

    assert drawn(1) == drawn(2) == drawn(4)


# Errors


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be >= 1, got 0"),
        ({"item_features": ("item_id", "color")}, r"got \['color'\]"),
        ({"item_features": ()}, "got none"),
        ({"item_features": ("tags",)}, "'tags' is no single-valued categorical feature"),
        ({"item_features": ("price",)}, "'price' is no single-valued categorical feature"),
    ],
)
def test_what_cannot_be(rows, keys, message):
    with pytest.raises(ValueError, match=message):
        sampler(rows, **keys)


def test_one_item_has_no_negative():
    with pytest.raises(ValueError, match="'item_id' has 1 items"):
        sampler(log_of(np.array([30])))
