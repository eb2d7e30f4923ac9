"""PEP, DeepLight, AutoDim, AutoSrh and MDE against their formulas, written out by hand and without autograd."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from recsys_tables import AutoDim, AutoSrh, DeepLight, Full, Mde, Pep
from recsys_tables.combine.masks import GroupScales, MagnitudeThreshold, SoftThreshold, WidthChoice
from recsys_tables.config import AutoDimTables, AutoSrhTables, DeepLightTables, MdeTables, PepTables
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.planning.plan import plan_tables
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.compact import compact_from

N, D = 40, 16
seeds = given(seed=st.integers(0, 10**6), size=st.integers(0, 12))


def random_rows(seed: int, size: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Rows and gradients [size, D]."""
    random = np.random.default_rng(seed)
    return random, random.normal(0, 0.05, (size, D)), random.normal(size=(size, D))


def through(module: nn.Module, rows: np.ndarray, gradient: np.ndarray, *aux: Any) -> tuple[Any, Any]:
    """Values of a module and the gradients of rows, where that of the values is given."""
    leaf = torch.from_numpy(rows).requires_grad_()
    out = module([leaf], *aux)
    out.backward(torch.from_numpy(gradient))
    return out.detach().numpy(), leaf.grad.numpy()


# ---- PEP


@pytest.mark.parametrize("count", [1, D])
@settings(max_examples=30)
@seeds
def test_soft_thresholds_are_those_of_the_formula(count: int, seed: int, size: int) -> None:
    random, rows, gradient = random_rows(seed, size)
    module: Any = SoftThreshold(count, -15.0, 0.0, None).double()
    s = random.normal(-3, 1, count)
    module.threshold.data = torch.from_numpy(s)
    sigma = 1 / (1 + np.exp(-s))
    out, of_rows = through(module, rows, gradient)
    alive = np.abs(rows) > sigma
    np.testing.assert_allclose(out, np.where(alive, rows - np.sign(rows) * sigma, 0), atol=1e-12)
    np.testing.assert_allclose(of_rows, gradient * alive, atol=1e-12)
    of_s = -(gradient * np.sign(rows) * alive) * sigma * (1 - sigma)
    expected = of_s.sum(axis=0) if count == D else [of_s.sum()]
    np.testing.assert_allclose(module.threshold.grad, expected, atol=1e-12)


def test_thresholds_begin_at_next_to_nothing_and_decay_to_0() -> None:
    module = SoftThreshold(2, -15.0, 0.1, 0.5)
    rows = torch.randn(5, D)
    torch.testing.assert_close(SoftThreshold(1, -15.0, 0.1, None)([rows]), rows, atol=4e-7, rtol=0)
    penalty = module.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(0.1 / 2 * 2 * 15**2)
    assert module.threshold.grad.tolist() == pytest.approx([-1.5, -1.5])
    assert module.learning_rates == {"threshold": 0.5}
    assert SoftThreshold(1, -15.0, 0.1, None).learning_rates == {"threshold": None}


# ---- DeepLight


@settings(max_examples=30)
@seeds
def test_small_weights_are_masked_and_trained_on(seed: int, size: int) -> None:
    _, rows, gradient = random_rows(seed, size)
    module: Any = MagnitudeThreshold(0.9, 0.99).double().eval()
    module.threshold.fill_(0.04)
    out, of_rows = through(module, rows, gradient)
    assert np.array_equal(out, np.where(np.abs(rows) > 0.04, rows, 0))
    assert np.array_equal(of_rows, gradient)
    assert float(module.steps) == 0, "an evaluation is no batch of training"


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), damping=st.sampled_from([0.01, 0.5, 0.99]))
def test_the_threshold_follows_the_scheduled_quantile(seed: int, damping: float) -> None:
    random = np.random.default_rng(seed)
    module: Any = MagnitudeThreshold(0.8, damping).double()
    threshold = 0.0
    for step in range(1, 61):
        rows = random.normal(size=(random.integers(0, 9), D))
        module([torch.from_numpy(rows)])
        if step % 10 == 0 and rows.size:
            share = 0.8 * (1 - damping ** (step / 100))
            threshold += 0.25 * (
                np.sort(np.abs(rows), axis=None)[int(np.ceil(share * rows.size)) - 1] - threshold
            )
        assert float(module.threshold) == pytest.approx(threshold, abs=1e-12)
    assert float(module.steps) == 60


def test_the_scheduled_share_of_looked_up_weights_is_masked_in_the_end() -> None:
    random = torch.Generator().manual_seed(0)
    module = MagnitudeThreshold(0.7, 0.5)
    for _ in range(2000):
        out = module([torch.randn(20, D, generator=random)])
    masked = (module.eval()([torch.randn(2000, D, generator=random)]) == 0).float().mean()
    assert float(masked) == pytest.approx(0.7, abs=0.03)
    assert out.shape == (20, D)


# ---- AutoDim


@pytest.mark.parametrize("training", [False, True])
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 12), steps=st.sampled_from([0, 4000, 10**6]))
def test_mixtures_of_widths_are_those_of_the_formula(
    training: bool, seed: int, size: int, steps: int
) -> None:
    random, rows, gradient = random_rows(seed, size)
    choice, noise = random.normal(0, 0.1, 5), random.gumbel(0, 0.1, 5) * training
    module: Any = WidthChoice(D, 0.0, 1e-4, None).double().train(training)
    module.choice.data = torch.from_numpy(choice)
    module.steps.fill_(steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "gumbel_softmax",
            lambda logits, tau: ((logits + torch.from_numpy(noise)) / tau).softmax(0),
        )
        out, of_rows = through(module, rows, gradient)
    temperature = max(0.01, 1 - 1e-4 * (steps + 1)) if training else 1.0
    p = np.exp((choice + noise - (choice + noise).max()) / temperature)
    p /= p.sum()
    widest = 5 if training else choice.argmax()
    masks = np.array([np.arange(D) < 4 * min(n, widest) for n in range(5)])
    np.testing.assert_allclose(out, rows * (p @ masks), atol=1e-12)
    np.testing.assert_allclose(of_rows, gradient * (p @ masks), atol=1e-12)
    of_p = masks @ (gradient * rows).sum(axis=0)
    np.testing.assert_allclose(module.choice.grad, p * (of_p - p @ of_p) / temperature, rtol=1e-8, atol=1e-10)


def test_noise_draws_widths_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    module = WidthChoice(8, 0.0, 1.0, None)  # cold from the first batch on
    nn.init.constant_(module.choice, 0.0)
    with torch.no_grad():
        module.choice[1] = 1.0
        masks = torch.stack([module([torch.ones(1, 8)])[0] for _ in range(4000)]).round()
    shares = torch.bincount(masks.sum(dim=1).int() // 4, minlength=3) / 4000
    torch.testing.assert_close(shares, module.choice.detach().softmax(0), atol=0.03, rtol=0)


def test_the_penalty_of_widths_is_their_expected_share() -> None:
    module = WidthChoice(D, 0.3, 0.0, 0.2)
    assert module.penalty().item() == pytest.approx(0.15)
    with torch.no_grad():
        module.choice[0] = 50.0
    assert module.penalty().item() == pytest.approx(0, abs=1e-6)
    assert module.learning_rates == {"choice": 0.2}


# ---- AutoSrh


@pytest.mark.parametrize("training", [False, True])
@settings(max_examples=30)
@seeds
def test_scales_of_groups_are_those_of_the_formula(training: bool, seed: int, size: int) -> None:
    random, rows, gradient = random_rows(seed, size)
    groups, scales = random.integers(0, 6, (size, 1)), random.normal(0, 0.02, (6, D))
    module: Any = GroupScales(6, D, 0.0, 0.01, None).double().train(training)
    module.scales.data = torch.from_numpy(scales)
    out, of_rows = through(module, rows, gradient, torch.from_numpy(groups))
    in_use = (np.abs(scales) >= 0.01) | training
    of_scales = np.zeros((6, D))
    for row, g, up in zip(rows, groups[:, 0], gradient, strict=True):
        of_scales[g] += row * up * in_use[g]
    effective = (scales * in_use)[groups[:, 0]]
    np.testing.assert_allclose(out, effective * rows, atol=1e-12)
    np.testing.assert_allclose(of_rows, effective * gradient, atol=1e-12)
    np.testing.assert_allclose(module.scales.grad, of_scales, atol=1e-12)


def test_groups_hold_equal_shares_of_the_codes_and_scales_pay_for_their_size() -> None:
    groups = AutoSrh("item", 1000, D).aux(np.arange(1000))[:, 0]
    assert (np.diff(groups) >= 0).all()
    assert set(np.bincount(groups)) == {166, 167}
    assert AutoSrh("item", 2, D).aux(np.arange(2)).tolist() == [[0], [3]]
    module = GroupScales(6, D, 0.5, 0.01, 0.2)
    penalty = module.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * 6 * D)
    assert (module.scales.grad == 0.5).all()
    assert module.learning_rates == {"scales": 0.2}


# ---- what is left

SCHEMES: dict[str, Any] = {
    "pep": Pep("item", N, D),
    "pep_by_column": Pep("item", N, D, threshold_by="field_dimension"),
    "deep_light": DeepLight("item", N, D),
    "auto_dim": AutoDim("item", N, D),
    "auto_srh": AutoSrh("item", N, D),
    "mde": Mde("item", N, 8, D),
}


def trained(name: str) -> tuple[EmbeddingEngine, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make an engine with masks on some of a table, the table, and what `learned` needs beside it."""
    scheme, random = SCHEMES[name], np.random.default_rng(1)
    engine = EmbeddingEngine([Field(scheme)]).eval()
    tables = {
        t.name: random.normal(0, 0.05, (t.num_embeddings, t.embedding_dim)).astype(np.float32)
        for t in scheme.tables()
    }
    state = engine.combiner.combines[0].state_dict()
    values = {
        "pep": {"threshold": -2.0},
        "pep_by_column": {"threshold": np.where(np.arange(D) < 10, -2.0, 0.0)},
        "deep_light": {"threshold": 0.12, "steps": 9.0},
        "auto_dim": {"choice": [0.0, 0.3, 0.1, 0.8, -0.2], "steps": 9.0},
        "auto_srh": {"scales": random.normal(0, 0.02, (6, D)) * (np.arange(D) < 9)},
        "mde": {},
    }[name]
    for key, value in values.items():  # type: ignore[attr-defined]
        state[key].copy_(torch.as_tensor(value))
    return engine, tables, {key: value.numpy() for key, value in state.items()}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_compact_table_of_what_was_learned_is_the_learner(name: str) -> None:
    engine, tables, state = trained(name)
    ids = np.arange(N)
    vectors = engine.vectors_of("item", ids, tables)
    weights, score, width = SCHEMES[name].learned(tables["item/full"], state)
    assert (weights.dtype, weights.shape, score.dtype, score.shape) == (
        np.float32,
        (N, D),
        np.float64,
        (N,),
    )
    np.testing.assert_allclose(weights, vectors, atol=1e-6)
    assert not weights[:, width:].any()
    full = Full("item", N, D)
    schemes, compact = compact_from([full], {"item/full": weights}, {"item": score > 0}, {"item": width})
    assert compact["item/compact"].shape == ((score > 0).sum(), width)
    compact_vectors = EmbeddingEngine([Field(schemes[0])]).vectors_of("item", ids, compact)
    np.testing.assert_allclose(compact_vectors, vectors, atol=1e-6)


def test_scores_and_widths_say_what_is_in_use() -> None:
    widths = {}
    for name, scheme in SCHEMES.items():
        _, tables, state = trained(name)
        weights, score, width = scheme.learned(tables["item/full"], state)
        widths[name] = width
        if name == "mde":
            assert (np.diff(score) < 0).all()
            assert score[-1] > 0
        else:
            np.testing.assert_allclose(score, np.abs(weights).sum(axis=1), rtol=1e-6)
        num_kept = (score > 0).sum()
        assert 0 < num_kept < N if name.startswith(("pep", "deep")) else num_kept == N
    assert widths == {
        **{"pep": 16, "pep_by_column": 12, "deep_light": 16, "auto_dim": 12, "auto_srh": 12, "mde": 8}
    }


def test_a_field_of_which_nothing_is_left_has_no_width() -> None:
    table = np.ones((N, D), np.float32)
    for scheme, state in (
        (SCHEMES["pep"], {"threshold": np.array([50.0], np.float32)}),
        (SCHEMES["deep_light"], {"threshold": np.array([2.0], np.float32)}),
        (SCHEMES["auto_dim"], {"choice": np.array([1, 0, 0, 0, 0], np.float32)}),
        (SCHEMES["auto_srh"], {"scales": np.zeros((6, D), np.float32)}),
    ):
        weights, score, width = scheme.learned(table + 0 * table, state)
        assert (width, weights.any(), score.any()) == (0, False, False)


def test_equally_likely_widths_leave_the_widest() -> None:
    table = np.ones((N, D), np.float32)
    state = {"choice": np.zeros(5, np.float32)}
    weights, _, width = SCHEMES["auto_dim"].learned(table, state)
    assert width == D
    module = SCHEMES["auto_dim"].combine().eval()
    np.testing.assert_allclose(module([torch.from_numpy(table)]).detach(), weights, atol=1e-7)


# ---- declared


def test_declared_settings_reach_their_schemes() -> None:
    features = [FeatureSize("few", 12, 12, 140, 140), FeatureSize("many", 1200, 1200, 16772, 16772)]

    def schemes(config: Any) -> tuple[Any, ...]:
        return plan_tables(config, features).schemes

    common = {"embedding_dim": 8, "init_bound": 0.1}
    pep = PepTables(
        scheme="pep",
        threshold_by="field_dimension",
        threshold_init=-7,
        threshold_decay=2,
        threshold_lr=3,
        **common,
    )
    assert schemes(pep)[0] == Pep("few", 12, 8, 0.1, "field_dimension", -7, 2, 3)
    deep_light = DeepLightTables(scheme="deep_light", sparsity=0.3, damping=0.2, **common)
    assert schemes(deep_light)[1] == DeepLight("many", 1200, 8, 0.1, 0.3, 0.2)
    auto_dim = AutoDimTables(scheme="auto_dim", alpha=1, annealing=2, choice_lr=3, **common)
    assert schemes(auto_dim)[0] == AutoDim("few", 12, 8, 0.1, 1, 2, 3)
    auto_srh = AutoSrhTables(scheme="auto_srh", groups=3, l1=2, cut=3, scale_lr=4, **common)
    assert schemes(auto_srh)[1] == AutoSrh("many", 1200, 8, 0.1, 3, 2, 3, 4)
    mde = MdeTables(scheme="mde", alpha=0.3, embedding_dim=16)
    assert [s.width for s in schemes(mde)] == [16, 4], "16 · (12 / 1200)^0.3 = 4.02"
