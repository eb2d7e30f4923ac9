"""The training kernel of tables against ten lines of NumPy: bags of any length, any optimiser, any number of threads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys_cython_ext.threads
from recsys_tables.bytes import OptimizerName
from recsys_tables.scheme import Precision
from recsys_tables.table_kernel import HeldTable, RowStates, TableKernel, UpdateRule

RULES: list[OptimizerName] = ["sgd", "rowwise_adagrad", "adagrad", "adam"]
HALVES: dict[Precision, Any] = {"fp16": np.float16, "bf16": np.uint16}


class Tables:
    """Tables with their weights and states, and the same as a dictionary of float64 for the oracle."""

    def __init__(
        self,
        shapes: list[tuple[int, int]],
        tables_of: list[int],
        rule: OptimizerName,
        precision: Precision = "fp32",
    ) -> None:
        random = np.random.default_rng(len(shapes))
        self.shapes, self.tables_of, self.precision = shapes, tables_of, precision
        self.rule = UpdateRule(rule, lr=0.1, eps=1e-3)
        held = [HeldTable(f"t{i}", *shape, salt=i) for i, shape in enumerate(shapes)]
        self.kernel = TableKernel(held, tables_of, precision)
        numbers, rows = sum(n * d for n, d in shapes), sum(n for n, _ in shapes)
        values = random.standard_normal(numbers).astype(np.float32)
        self.weights = {
            "fp32": values,
            "fp16": values.astype(np.float16),
            "bf16": (values.view(np.uint32) >> 16),
        }[precision].astype(HALVES.get(precision, np.float32))
        first = {"sgd": None, "rowwise_adagrad": rows}.get(rule, numbers)
        self.states = RowStates(
            None if first is None else np.zeros(first, np.float32),
            *((np.zeros(numbers, np.float32), np.zeros(rows, np.float32)) if rule == "adam" else ()),
        )

    def values(self) -> np.ndarray:
        if self.precision == "bf16":
            return (self.weights.astype(np.uint32) << 16).view(np.float32)
        return self.weights.astype(np.float32)

    def step(self, batch: Any, gradient: np.ndarray, threads: int = 1, seed: int = 0) -> np.ndarray:
        out = np.empty_like(gradient)
        self.kernel.read(self.weights.ctypes.data, *batch, out, threads)
        self.kernel.update(self.weights.ctypes.data, self.states, self.rule, seed, *batch, gradient, threads)
        return out


def batch_of(
    tables: Tables, num_bags: int, longest: int, weighted: bool, seed: int
) -> tuple[Any, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest + 1, len(tables.tables_of) * num_bags)
    if longest == 1:
        lengths[:] = 1
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    sizes = np.repeat([tables.shapes[t][0] for t in tables.tables_of], num_bags)
    indices = (random.random(offsets[-1]) * np.repeat(sizes, lengths)).astype(np.int64)
    factors = random.standard_normal(len(indices)).astype(np.float32) if weighted else None
    width = sum(tables.shapes[t][1] for t in tables.tables_of)
    return (indices, offsets, factors), random.standard_normal((num_bags, width)).astype(np.float32)


def oracle(tables: Tables, weights: np.ndarray, states: Any, batch: Any, gradient: np.ndarray) -> np.ndarray:
    """Read, then update in float64, row by row, in the order of the batch; `weights` and `states` change."""
    (indices, offsets, factors), num_bags = batch, len(gradient)
    starts = np.cumsum([0, *(n * d for n, d in tables.shapes)])
    out, column, sums = np.zeros(gradient.shape), 0, {}
    for f, t in enumerate(tables.tables_of):
        width = tables.shapes[t][1]
        for b in range(num_bags):
            for j in range(offsets[f * num_bags + b], offsets[f * num_bags + b + 1]):
                at, factor = starts[t] + indices[j] * width, 1.0 if factors is None else factors[j]
                out[b, column : column + width] += factor * weights[at : at + width]
                sums[at, width] = sums.get((at, width), 0) + factor * gradient[
                    b, column : column + width
                ].astype(float)
        column += width
    for (at, width), g in sums.items():
        w, (m, v, t), rule = weights[at : at + width], states.setdefault(at, (0.0, 0.0, 0)), tables.rule
        if rule.name == "sgd":
            w -= rule.lr * g
        elif rule.name == "adam":
            m, v, t = m + 0.1 * (g - m), 0.999 * v + 0.001 * g**2, t + 1
            w -= rule.lr / (1 - 0.9**t) * m / (np.sqrt(v) / np.sqrt(1 - 0.999**t) + rule.eps)
        else:
            m = m + (np.mean(g**2) if rule.name == "rowwise_adagrad" else g**2)
            w -= rule.lr * g / (np.sqrt(m) + rule.eps)
        states[at] = m, v, t
    return out


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("widths", [[16], [64], [8, 8], [4, 20, 72], [32], [132]])
@pytest.mark.parametrize(("longest", "weighted"), [(1, False), (1, True), (30, False), (3, True)])
def test_rows_are_read_and_updated_as_by_the_oracle(
    rule: OptimizerName, widths: list[int], longest: int, weighted: bool
) -> None:
    shapes = [(7 + 3 * i, width) for i, width in enumerate(widths)]
    tables = Tables(shapes, [*range(len(shapes)), 0], rule)  # the first table is looked up twice
    expected, states = tables.weights.astype(float), {}
    for step in range(3):
        batch, gradient = batch_of(tables, 9, longest, weighted, step)
        out = oracle(tables, expected, states, batch, gradient)
        np.testing.assert_allclose(tables.step(batch, gradient), out, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(tables.weights, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    num_bags=st.integers(1, 12),
    longest=st.integers(0, 6),
    rule=st.sampled_from(RULES),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_batch_is_updated_as_by_the_oracle(
    rows: list[int], num_bags: int, longest: int, rule: OptimizerName, weighted: bool, seed: int
) -> None:
    tables = Tables([(n, 4 * (1 + i)) for i, n in enumerate(rows)], list(range(len(rows))), rule)
    batch, gradient = batch_of(tables, num_bags, longest, weighted, seed)
    expected = tables.weights.astype(float)
    out = oracle(tables, expected, {}, batch, gradient)
    np.testing.assert_allclose(tables.step(batch, gradient), out, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tables.weights, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rule", RULES)
def test_any_number_of_threads_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, rule: OptimizerName, precision: Precision
) -> None:
    monkeypatch.setattr(recsys_cython_ext.threads, "VALUES_PER_THREAD", 64)
    monkeypatch.setattr(recsys_cython_ext.threads, "available_cores", lambda: 4)
    recsys_cython_ext.threads.pool.cache_clear()
    made = []
    for threads in (1, 2, 3, 4):
        tables = Tables([(50, 16), (9, 16)], [0, 1, 0], rule, precision)
        for step in range(3):
            batch, gradient = batch_of(tables, 64, 5, True, step)
            tables.step(batch, gradient, threads, seed=step)
        made.append((tables.weights, tables.states))
    for weights, states in made[1:]:
        assert weights.tobytes() == made[0][0].tobytes()
        for one, other in zip(
            (states.first, states.second, states.counts),
            (made[0][1].first, made[0][1].second, made[0][1].counts),
            strict=True,
        ):
            assert (one is None) == (other is None)
            assert one is None or other is None or one.tobytes() == other.tobytes()


@pytest.mark.parametrize("precision", HALVES)
def test_rows_in_half_the_bytes_are_rounded_to_a_neighbour_and_right_on_average(precision: Precision) -> None:
    """A step of a tenth of a number's distance moves one row of ten by a whole one, another seed another row."""
    tables = Tables([(40_000, 4)], [0], "sgd", precision)
    one = np.array([1.0], np.float32)
    tables.weights[:] = one.astype(np.float16) if precision == "fp16" else one.view(np.uint32) >> 16
    distance = 2**-10 if precision == "fp16" else 2**-7
    rows, offsets = np.arange(40_000), np.arange(40_001)
    gradient = np.full((40_000, 4), -distance, np.float32)  # at a learning rate of 0.1
    moved = []
    for seed in (1, 2):
        tables.weights[:] = one.astype(np.float16) if precision == "fp16" else one.view(np.uint32) >> 16
        tables.step((rows, offsets, None), gradient, seed=seed)
        assert {*np.unique(tables.values())} == {1.0, np.float32(1 + distance)}
        moved.append(tables.values() > 1)
        assert moved[-1].mean() == pytest.approx(0.1, abs=0.005)
    assert (moved[0] & moved[1]).mean() == pytest.approx(0.01, abs=0.003)


def test_what_fp16_cannot_hold_becomes_its_largest_number_and_small_numbers_survive() -> None:
    tables = Tables([(3, 4)], [0], "sgd", "fp16")
    tables.weights[:] = np.repeat([60_000, 3 * 2**-24, -(2**-20)], 4)
    gradient = np.zeros((3, 4), np.float32)
    gradient[0] = -1e6
    tables.step((np.arange(3), np.arange(4), None), gradient)
    assert tables.weights.tolist() == [65504.0] * 4 + [3 * 2**-24] * 4 + [-(2**-20)] * 4


def test_the_rounding_of_a_row_depends_on_its_place_in_the_whole_table() -> None:
    """Two shards by rows, and two by columns, are rounded as the whole table is."""
    rows, whole = np.arange(32, dtype=np.int64), np.ones((32, 8), np.float16)
    gradient = np.full((32, 8), 3e-4, np.float32)

    def moved(first_row: int, first_column: int, num_rows: int, width: int) -> np.ndarray:
        weights = np.ones((num_rows, width), np.float16)
        shard = HeldTable("t", num_rows, width, 7, 8, first_row, first_column)
        TableKernel([shard], [0], "fp16").update(
            weights.ctypes.data,
            RowStates(),
            UpdateRule("sgd", 1.0),
            5,
            np.arange(num_rows),
            np.arange(num_rows + 1),
            None,
            np.ascontiguousarray(gradient[:num_rows, :width]),
            1,
        )
        return weights

    whole = moved(0, 0, len(rows), 8)
    assert len(np.unique(whole)) == 2
    by_rows = np.concatenate([moved(0, 0, 20, 8), moved(20, 0, 12, 8)])
    by_columns = np.concatenate([moved(0, 0, 32, 4), moved(0, 4, 32, 4)], axis=1)
    assert np.array_equal(by_rows, whole)
    assert np.array_equal(by_columns, whole)


@pytest.mark.parametrize("index", [5, -1, 2**62, -(2**63)])
@pytest.mark.parametrize("longest", [1, 4])
def test_an_index_outside_its_table_is_named(index: int, longest: int) -> None:
    tables = Tables([(9, 4), (5, 4)], [0, 1], "sgd")
    (indices, offsets, _), gradient = batch_of(tables, 6, longest, False, 3)
    place = int(offsets[6])  # the first of the second lookup
    indices[place] = index
    before = tables.weights.copy()
    with pytest.raises(
        ValueError, match=rf"table 't1': index {place} of the batch is row {index}, and it has 5 rows"
    ):
        tables.step((indices, offsets, None), gradient)
    assert np.array_equal(tables.weights, before)


def test_offsets_that_fall_are_named() -> None:
    tables = Tables([(9, 4), (5, 4)], [0, 1], "sgd")
    offsets = np.array([0, 1, 2, 1, 4])
    with pytest.raises(ValueError, match="table 't1': the offsets of bag 0 fall, or leave the 4 indices"):
        tables.step((np.zeros(4, np.int64), offsets, None), np.zeros((2, 8), np.float32))


@pytest.mark.parametrize(
    ("offsets", "factors", "width"), [([0, 1], None, 4), ([0, 1, 2], [1.0], 4), ([0, 1, 2], None, 8)]
)
def test_arrays_that_do_not_belong_together_are_refused(offsets: Any, factors: Any, width: int) -> None:
    tables = Tables([(9, 4)], [0], "sgd")
    batch = (
        np.zeros(2, np.int64),
        np.array(offsets),
        None if factors is None else np.array(factors, np.float32),
    )
    with pytest.raises(
        ValueError, match="1 lookups of 2 bags take 3 offsets, an output of width 4 and a factor"
    ):
        tables.step(batch, np.zeros((2, width), np.float32))


def test_what_does_not_fit_the_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, not \[4, 6\]"):
        TableKernel([HeldTable("a", 3, 4), HeldTable("b", 3, 6)], [0, 1], "fp32")
    with pytest.raises(
        ValueError, match=r"fewer than 2\^32: take more workers, or set job\.table_kernel to fbgemm"
    ):
        TableKernel([HeldTable("a", 2**32, 4)], [0], "fp32")
