"""OptEmbed's supernet against its formulas, written out by hand and without autograd."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables import Full, OptEmbed
from recsys_tables.combine.thresholds import FieldThreshold, IdThreshold
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.schemes.compact import compact_from

N, D = 40, 16


def slope(x: float) -> float:
    """Return the surrogate gradient of 1[x > 0]."""
    size = abs(x)
    if size <= 0.4:
        return 2 - 4 * size
    return 0.4 if size <= 1 else 0.0


def by_hand(
    rows: np.ndarray, thresholds: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [L, D], and the gradients of rows [L, D] and thresholds [L] where that of the vectors is given."""
    out, of_rows, of_thresholds = np.zeros_like(rows), np.zeros_like(rows), np.zeros(len(rows))
    for i, (row, threshold, g) in enumerate(zip(rows, thresholds, gradient, strict=True)):
        x = np.abs(row).sum() - threshold
        mask, through = float(x > 0), (g @ row) * slope(x)
        out[i] = mask * row
        of_rows[i] = mask * g + through * np.sign(row)
        of_thresholds[i] = -through
    return out, of_rows, of_thresholds


# ---- the row mask


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 12), scale=st.sampled_from([0.01, 0.05, 0.2]))
def test_values_and_gradients_are_those_of_the_formula(seed: int, size: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    rows, gradient = random.normal(0, scale, (size, D)), random.normal(size=(size, D))
    thresholds = random.normal(13 * scale, 0.5, (size, 4))
    for by_id in (False, True):
        module: Any = IdThreshold(1e-3) if by_id else FieldThreshold(1e-3, None)
        module.double()
        given_rows = torch.from_numpy(rows).requires_grad_()
        given_thresholds = torch.from_numpy(thresholds).requires_grad_()
        if not by_id:
            nn.init.constant_(module.threshold, 13 * scale)
        out = module([given_rows, given_thresholds] if by_id else [given_rows])
        out.backward(torch.from_numpy(gradient))
        expected = by_hand(rows, thresholds[:, 0] if by_id else np.full(size, 13 * scale), gradient)
        np.testing.assert_allclose(out.detach(), expected[0], atol=1e-12)
        np.testing.assert_allclose(given_rows.grad, expected[1], atol=1e-12)
        if by_id:
            np.testing.assert_allclose(given_thresholds.grad[:, 0], expected[2], atol=1e-12)
            assert not given_thresholds.grad[:, 1:].any()
        else:
            np.testing.assert_allclose(module.threshold.grad, expected[2].sum(), atol=1e-12)


@pytest.mark.parametrize(
    ("x", "slope"),
    [(0.0, 2.0), (0.1, 1.6), (-0.1, 1.6), (0.4, 0.4), (0.7, 0.4), (-1.0, 0.4), (1.01, 0.0), (-5.0, 0.0)],
)
def test_the_surrogate_gradient_at_a_point(x: float, slope: float) -> None:
    """With a row (1 + x, 0, …), t = 1 and a gradient of 1 along the first column, t's is -(1 + x) · slope."""
    module = FieldThreshold(0.0, None).double()
    nn.init.constant_(module.threshold, 1.0)
    row = torch.zeros(1, D, dtype=torch.float64)
    row[0, 0] = 1 + x
    module([row])[0, 0].backward()
    assert float(module.threshold.grad) == pytest.approx(-(1 + x) * slope, abs=1e-12)


def test_a_row_at_its_threshold_is_masked() -> None:
    module = FieldThreshold(0.0, None)
    rows = torch.zeros(2, D)
    rows[1, 3] = 1e-6
    assert module([rows]).equal(rows), "with t = 0 only a row of zeros is masked, which changes nothing"
    nn.init.constant_(module.threshold, 1e-6)
    assert not module([rows]).any()


# ---- the penalty


def test_the_penalty_of_a_field_falls_with_its_threshold() -> None:
    module = FieldThreshold(0.3, 0.5)
    nn.init.constant_(module.threshold, 0.7)
    penalty = module.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(0.3 * np.exp(-0.7))
    assert module.threshold.grad.item() == pytest.approx(-0.3 * np.exp(-0.7))
    assert module.learning_rates == {"threshold": 0.5}
    assert FieldThreshold(0.3, None).learning_rates == {"threshold": None}


def test_the_penalty_of_ids_is_a_mean_over_the_batch_and_asked_for_once() -> None:
    module = IdThreshold(0.3)
    assert module.penalty().item() == 0
    thresholds = torch.tensor([[0.0] * 4, [1.0] * 4, [1.0] * 4]).requires_grad_()
    module([torch.ones(3, D), thresholds])
    penalty = module.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(0.3 * (1 + 2 * np.exp(-1)) / 3)
    np.testing.assert_allclose(thresholds.grad[:, 0], -0.1 * np.exp([0, -1, -1]), rtol=1e-6)
    assert module.penalty().item() == 0
    module([torch.ones(0, D), torch.ones(0, 4)])
    assert module.penalty().item() == 0, "a rank may have no row"


# ---- widths


def test_widths_are_uniform_and_keep_the_first_columns() -> None:
    torch.manual_seed(0)
    draws = 20_000
    narrowed = FieldThreshold(0.0, None).narrow(torch.ones(draws, D), None)
    widths = narrowed.sum(dim=1).int()
    assert narrowed.equal((torch.arange(D) < widths[:, None]).float()), "the columns kept are the first"
    counts = torch.bincount(widths, minlength=D + 1)
    assert counts.nonzero().flatten().tolist() == [0, 4, 8, 12, 16]
    sigma = (draws * 0.2 * 0.8) ** 0.5
    assert (counts[::4] - draws / 5).abs().max() < 4.5 * sigma


def test_vectors_of_one_sequence_have_one_width() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([3, 0, 5, 1] * 50)
    narrowed = FieldThreshold(0.0, None).narrow(torch.ones(int(lengths.sum()), D), lengths)
    per_sample = narrowed.sum(dim=1).split(lengths.tolist())
    assert all(len(set(widths.tolist())) <= 1 for widths in per_sample)
    assert len({widths[0].item() for widths in per_sample if len(widths)}) == 5


def batch(bags: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=list(bags),
        values=torch.tensor([i for of_feature in bags.values() for bag in of_feature for i in bag]),
        lengths=torch.tensor([len(bag) for of_feature in bags.values() for bag in of_feature]),
    )


@pytest.mark.parametrize("threshold_by", ["field", "id"])
def test_the_engine_draws_a_width_for_each_sample_and_field_in_training_alone(threshold_by: Any) -> None:
    def scheme(feature: str) -> OptEmbed:
        return OptEmbed(feature, N, D, threshold_by=threshold_by)

    fields = [
        Field(scheme("one")),
        Field(scheme("sum"), multivalued=True),
        Field(scheme("mean"), "mean", multivalued=True),
        Field(scheme("history"), "none", multivalued=True),
    ]
    engine = EmbeddingEngine(fields)
    random = np.random.default_rng(0)
    bags = {f.feature: [random.integers(0, N, 1 if f.feature == "one" else 3).tolist()] * 60 for f in fields}
    whole = engine.eval()(batch(bags))
    full = EmbeddingEngine([Field(Full(f.feature, N, D), f.pooling, f.multivalued) for f in fields])
    parameters = dict(engine.named_parameters())
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            key = next(k for k in parameters if k.endswith(name.split("embedding_bags.")[1]))
            parameter.copy_(parameters[key])
    torch.testing.assert_close(
        whole.values(), full(batch(bags)).values(), msg="all columns, and no row masked"
    )
    torch.manual_seed(0)
    narrow = engine.train()(batch(bags))
    widths = []
    for name in ("one", "sum", "mean"):
        in_use = narrow[name] != 0
        assert narrow[name].equal(whole[name] * in_use)
        widths.append(in_use.sum(dim=1))
    in_use = narrow.sequences["history"].values().view(60, 3, D) != 0
    assert in_use.equal(in_use[:, :1].expand_as(in_use)), "one width for a sample's sequence"
    widths.append(in_use[:, 0].sum(dim=1))
    for own_widths in widths:
        assert set(own_widths.tolist()) == {0, 4, 8, 12, 16}
    assert not any(a.equal(b) for i, a in enumerate(widths) for b in widths[:i]), "fields draw for themselves"


# ---- what is left


def supernet(threshold_by: str, seed: int = 0) -> tuple[EmbeddingEngine, OptEmbed, dict[str, np.ndarray]]:
    """Make an engine of one field with rows on both sides of their thresholds, and its tables."""
    scheme = OptEmbed("item", N, D, threshold_by=threshold_by)  # type: ignore[arg-type]
    engine = EmbeddingEngine([Field(scheme)]).eval()
    random = np.random.default_rng(seed)
    tables = {"item/full": random.normal(0, 0.05, (N, D)).astype(np.float32)}
    if threshold_by == "id":
        tables["item/threshold"] = random.normal(0.6, 0.3, (N, 4)).astype(np.float32)
    else:
        nn.init.constant_(next(engine.combiner.parameters()), 0.62)
    return engine, scheme, tables


def combine_state(engine: EmbeddingEngine, tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what `learned` needs beside the table."""
    state: dict[str, Tensor] = engine.combiner.combines[0].state_dict()
    further = {"threshold": tables["item/threshold"]} if "item/threshold" in tables else {}
    return {name: value.numpy() for name, value in state.items()} | further


@pytest.mark.parametrize("threshold_by", ["field", "id"])
def test_a_compact_table_of_the_learned_rows_is_the_supernet(threshold_by: str) -> None:
    engine, scheme, tables = supernet(threshold_by)
    ids = np.arange(N)
    vectors = engine.vectors_of("item", ids, tables)
    weights, score, width = scheme.learned(tables["item/full"], combine_state(engine, tables))
    assert 5 < (score > 0).sum() < N - 5
    assert (score.dtype, weights.dtype, width) == (np.float64, np.float32, D)
    np.testing.assert_allclose(weights, vectors, atol=1e-6)
    full = Full("item", N, D)
    schemes, compact = compact_from([full], {"item/full": weights}, {"item": score > 0}, {"item": width})
    assert compact["item/compact"].shape == ((score > 0).sum(), D)
    compact_vectors = EmbeddingEngine([Field(schemes[0])]).vectors_of("item", ids, compact)
    np.testing.assert_allclose(compact_vectors, vectors, atol=1e-6)


def test_thresholds_by_id_are_a_table_that_begins_at_nothing_and_does_not_decay() -> None:
    full, threshold = OptEmbed("item", N, D, threshold_by="id").tables()
    assert (full.name, full.decays) == ("item/full", True)
    assert (threshold.name, threshold.num_embeddings, threshold.embedding_dim) == ("item/threshold", N, 4)
    assert (threshold.init_bound, threshold.decays) == (0.0, False)


def test_a_rate_of_one_threshold_is_refused_for_many() -> None:
    with pytest.raises(
        ValueError, match=r"'item': threshold_lr 0\.1 is of one threshold by field.*leave it out"
    ):
        OptEmbed("item", N, D, threshold_by="id", threshold_lr=0.1)
