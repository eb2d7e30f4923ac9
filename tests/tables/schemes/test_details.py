"""What one scheme promises beyond the suite of all."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_tables import HashEmbedding, MEmCom, MixedDimension, MultiHash, PathBased, Robe, TensorTrain
from recsys_tables.distributed.sharding import TableOptimizer, placements, plan_sharding
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.scheme import unique_tables
from recsys_tables.schemes.mixed_dimension import popularity_dims

IDS = np.arange(3000)


def random_tables(scheme: Any) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {
        t.name: random.normal(size=(t.num_embeddings, t.embedding_dim)).astype(np.float32)
        for t in scheme.tables()
    }


def test_hash_embeddings_start_as_the_plain_sum_of_multi_hash() -> None:
    scheme, plain = HashEmbedding("item", 97, 50, 16, 3), MultiHash("item", 97, 16, 3)
    components, importances = scheme.tables()
    assert components.init_bound == plain.tables()[0].init_bound
    assert (importances.init_bound, importances.embedding_dim) == (0, 4)
    tables = random_tables(scheme)
    tables["item/importances"][:] = 0
    expected = lookup(plain, {"item/multi_hash": tables["item/components"]}, IDS)
    np.testing.assert_allclose(lookup(scheme, tables, IDS), expected, rtol=1e-5, atol=1e-5)
    assert HashEmbedding("item", 97, 50, 16, 5).tables()[1].embedding_dim == 8, "padded"


def test_mem_com_gives_every_id_a_multiplier_of_its_own() -> None:
    scheme = MEmCom("item", 3000, 7, 8)
    places = scheme.rows(IDS)[1].rows[:, 0] * 4 + scheme.aux(IDS)[:, 0]
    assert np.array_equal(places, IDS)
    assert [t.num_embeddings for t in MEmCom("item", 3001, 7, 8).tables()] == [7, 751]


def test_robe_blocks_and_slots() -> None:
    """Z <= D: D/Z lookups of Z. Z > D: neighbours share a row, and no two ids of a row a slot."""
    quarter, whole, three = (Robe("item", 97, 16, z) for z in (4, 16, 48))
    assert [len(s.rows(IDS)) for s in (quarter, whole, three)] == [4, 1, 1]
    assert [s.linear for s in (quarter, whole, three)] == [True, True, False]
    rows, slots = three.rows(IDS)[0].rows[:, 0], three.aux(IDS)[:, 0]
    assert np.array_equal(slots, IDS % 3)
    assert (rows.reshape(-1, 3) == rows[::3, None]).all()
    extremes = np.array([-(2**63), -1, 2**63 - 1])
    assert three.aux(extremes)[:, 0].tolist() == [i % 3 for i in extremes.tolist()]


def test_robe_signs_are_fair_and_independent_of_rows_and_blocks() -> None:
    lookups = Robe("item", 97, 16, 4).rows(np.arange(20_000))
    signs = np.stack([x.weights[:, 0] for x in lookups])
    assert set(np.unique(signs)) == {-1, 1}
    assert np.abs(signs.mean(axis=1)).max() < 0.03
    assert np.abs(np.corrcoef(signs) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(signs[0], lookups[0].rows[:, 0])[0, 1]) < 0.03
    assert all(x.weights is None for x in Robe("item", 97, 16, 4, signs=False).rows(IDS))


def test_robe_is_shared_by_features_of_any_width() -> None:
    schemes = [Robe("a", 97, 16, 8), Robe("b", 97, 4, 8), Robe("c", 97, 8, 8, table="robe")]
    assert [t.name for t in unique_tables(schemes)] == ["robe/robe"]
    assert unique_tables([schemes[0], Robe("d", 9, 16, 8, table="own")])[1].name == "own/robe"


@pytest.mark.parametrize(
    ("dim", "widths"), [(4, (4, 20, 8)), (16, (8, 20, 12)), (12, (8, 20, 12)), (64, (12, 36, 12))]
)
def test_tensor_train_cores_are_padded_to_multiples_of_4(dim: int, widths: tuple[int, ...]) -> None:
    scheme = TensorTrain("item", 1000, (10, 11), dim, 3)
    assert tuple(t.embedding_dim for t in scheme.tables()) == widths
    assert [t.num_embeddings for t in scheme.tables()] == [10, 10, 11]
    tables = random_tables(scheme)
    vectors = lookup(scheme, tables, IDS[:1000])
    for core, used in zip(tables.values(), scheme._widths, strict=True):
        core[:, used:] = np.nan
    np.testing.assert_array_equal(lookup(scheme, tables, IDS[:1000]), vectors)


@pytest.mark.parametrize("sharding", ["row_wise", "auto"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_no_rank_gets_a_row_shard_without_rows(ranks: int, sharding: Any) -> None:
    """Beside a table of another width FBGEMM would read its neighbour's gradient: seen with 5, 3 and 4 rows on 4 ranks."""
    engine = EmbeddingEngine([Field(TensorTrain("item", 50, (3, 4), 8, 2))], torch.device("meta"))
    plan = plan_sharding(engine, sharding, TableOptimizer(), ranks, torch.device("cpu"))
    assert all(place.rows > 0 for place in placements(plan))


def test_a_mixed_dimension_is_projected_only_where_it_is_narrower() -> None:
    assert list(MixedDimension("item", 9, 16, 16).combine().parameters()) == []
    assert [tuple(p.shape) for p in MixedDimension("item", 9, 4, 16).combine().parameters()] == [(16, 4)]
    weight = next(MixedDimension("item", 9, 4, 16).combine().parameters()).detach()
    torch.testing.assert_close(weight.T @ weight, 4 * torch.eye(4))


@given(
    num_ids=st.dictionaries(st.text("abc", max_size=3), st.integers(1, 10**9), min_size=1),
    embedding_dim=st.integers(1, 64).map(lambda n: 4 * n),
    alpha=st.floats(0, 1),
    share=st.floats(0.05, 1),
)
def test_popularity_dims_fall_with_the_number_of_ids(
    num_ids: dict[str, int], embedding_dim: int, alpha: float, share: float
) -> None:
    dims = popularity_dims(num_ids, embedding_dim, alpha, share * embedding_dim)
    assert all(dim % 4 == 0 and 4 <= dim <= embedding_dim for dim in dims.values())
    ordered = [dims[feature] for feature in sorted(num_ids, key=lambda f: num_ids[f])]
    assert ordered == sorted(ordered, reverse=True)
    assert all(MixedDimension(f, n, dims[f], embedding_dim).tables() for f, n in num_ids.items())


def test_popularity_dims_by_hand() -> None:
    """16 · (10 / n)^0.3: 16, 8.02, 4.02, 2.02."""
    assert popularity_dims({"a": 10, "b": 100, "c": 1000, "d": 10_000}, 16) == {
        "a": 16,
        "b": 8,
        "c": 4,
        "d": 4,
    }
    assert popularity_dims({"a": 10, "b": 10_000}, 16, alpha=0) == {"a": 16, "b": 16}
    assert popularity_dims({}, 16) == {}


@pytest.mark.parametrize("divisor", [17, 100, 7])
def test_a_path_reads_its_own_network_alone(divisor: int) -> None:
    """Gradients of an id's loss reach the network of its path and no other."""
    scheme = PathBased("item", 100, divisor, 8, 4)
    module = scheme.combine()
    ids = np.array([99, 0, 99])
    vectors = torch.randn(3, 8)
    module([vectors], torch.from_numpy(scheme.aux(ids)))[0].sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).abs().sum(dim=1).nonzero()[:, 0].tolist()
        assert moved in ([99 // divisor], [])  # [] where no hidden unit is active


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HashEmbedding("f", 9, 9, 8, 0), r"feature 'f': num_hashes 0 is not at least 1"),
        (lambda: HashEmbedding("f", 9, 0, 8).tables(), r"'f/importances': num_embeddings 0"),
        (lambda: MEmCom("f", 0, 9, 8).tables(), r"'f/multipliers': num_embeddings 0"),
        (lambda: MixedDimension("f", 9, 20, 16), r"feature 'f': row_dim 20 is outside 1\.\.16"),
        (lambda: MixedDimension("f", 9, 0, 16), r"feature 'f': row_dim 0 is outside 1\.\.16"),
        (lambda: MixedDimension("f", 9, 6, 16).tables(), r"'f/narrow': embedding_dim 6 .* use 8"),
        (lambda: Robe("f", 9, 16, 12), r"feature 'f': block_dim 12 and embedding_dim 16: neither"),
        (lambda: Robe("f", 9, 16, 0), r"feature 'f': block_dim 0"),
        (lambda: Robe("f", 9, 16, 2).tables(), r"'robe/robe': embedding_dim 2 is not"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
