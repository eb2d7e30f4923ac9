"""Searches over genomes: what is returned was scored, nothing is scored twice, and the known best is found."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.compression.evaluations import EvaluationLog
from recsys.compression.evolution import (
    Outcome,
    Scored,
    Settings,
    by_fronts,
    crossed,
    crowding_distance,
    evolve,
    front_ranks,
    mutated,
    pareto_front,
)
from recsys.compression.rivals import random_search, uniform_shrink
from recsys.compression.space import Genome, GenomeSpace
from recsys_tables.planning.plan import BudgetError

FEW = Settings(population=8, mutations=5, crossovers=5, generations=6)
SEARCHES: dict[str, Callable[..., Outcome]] = {
    "evolve": lambda *args, known=None: evolve(*args, FEW, known),
    "pareto_front": lambda *args, known=None: pareto_front(*args, FEW, known),
    "random_search": lambda *args, known=None: random_search(*args, 60, known=known),
    "uniform_shrink": lambda *args, known=None: uniform_shrink(*args, 60, known),
}


class Toy:
    """Fields that add up: `gains` for as much of the width that each `needs`, and of its ids, as it is given."""

    def __init__(
        self, sizes: Sequence[int] = (60, 200, 30, 90), needs: Sequence[int] = (4, 8, 0, 12), seed: int = 0
    ) -> None:
        random = np.random.default_rng(seed)
        names = [f"f{i}" for i in range(len(sizes))]
        scores = {name: random.random(2 + n) for name, n in zip(names, sizes, strict=True)}
        codes = {name: len(score) for name, score in scores.items()}
        self.space = GenomeSpace(tuple(names), codes, scores, embedding_dim=12)
        self.sizes, self.needs = sizes, needs
        self.gains = random.uniform(0.5, 2, len(sizes))
        self.asked: list[Genome] = []

    def quality(self, genome: Genome) -> float:
        parts = zip(self.gains, self.needs, self.sizes, genome.widths, genome.rows, strict=True)
        return sum(
            gain * min(width, need) / 12 * np.sqrt((1 + rows) / size)
            for gain, need, size, width, rows in parts
        )

    def __call__(self, genomes: Sequence[Genome]) -> list[float]:
        self.asked += genomes
        return [self.quality(genome) for genome in genomes]

    @property
    def budget(self) -> int:
        return self.space.bytes(self.space.everything()) // 5


def any_genomes(space: GenomeSpace, seed: int, number: int) -> list[Genome]:
    random = np.random.default_rng(seed)
    return [mutated(space, space.everything(), 1.0, random) for _ in range(number)]


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_returned_was_scored_fits_and_was_evaluated_once(name: str):
    toy = Toy()
    outcome = SEARCHES[name](toy.space, toy, toy.budget)
    assert [scored.genome for scored in outcome.evaluated] == toy.asked
    assert len(set(toy.asked)) == len(toy.asked) == outcome.evaluations
    for scored in outcome.evaluated:  # long after they were parents of mutants
        assert scored.quality == toy.quality(scored.genome)
        assert scored.bytes == toy.space.bytes(scored.genome) <= toy.budget
    assert outcome.best.quality == max(scored.quality for scored in outcome.evaluated)
    assert outcome.best.genome in toy.asked


@pytest.mark.parametrize("name", SEARCHES)
def test_equal_seeds_give_equal_outcomes_and_known_genomes_are_not_evaluated_again(name: str):
    first, again, half = Toy(), Toy(), Toy()
    known: dict[Genome, float] = {}
    outcome = SEARCHES[name](first.space, first, first.budget, known=known)
    assert SEARCHES[name](again.space, again, again.budget) == outcome
    assert list(known) == first.asked
    known = dict(list(known.items())[::2])
    assert SEARCHES[name](half.space, half, half.budget, known=known) == outcome
    assert half.asked == first.asked[1::2]


def test_another_seed_takes_another_way():
    asked = []
    for seed in (0, 1):
        toy = Toy()
        evolve(toy.space, toy, toy.budget, Settings(generations=2, seed=seed))
        asked.append(set(toy.asked))
    assert asked[0] != asked[1]


def test_evolution_begins_with_cuts_on_score_and_uniform_shrinks_at_every_width():
    toy = Toy()
    evolve(toy.space, toy, toy.budget, FEW)
    for width in (4, 8, 12):
        assert toy.space.by_score(width, toy.budget) in toy.asked[:6]
        share = toy.space.uniform_share(width, toy.budget)
        assert toy.space.uniform(width, share) in toy.asked[:6]
    first = 6 + len(toy.space.features)
    for i, genome in enumerate(toy.asked[6:first]):
        assert genome.widths[i] == 0, "a field is left out"
        assert sum(width == 0 for width in genome.widths) == 1
    assert len(toy.asked) <= first + FEW.generations * (FEW.mutations + FEW.crossovers)


def test_evolution_finds_the_best_of_a_space_that_can_be_listed():
    toy = Toy(sizes=(12, 40), needs=(4, 12))
    genes = [
        [(width, rows) for width in widths for rows in (grid if width else (0,))]
        for widths, grid in zip(toy.space.width_choices, toy.space.row_choices, strict=True)
    ]
    every = [Genome(*zip(*pairs, strict=True)) for pairs in itertools.product(*genes)]
    fit = [g for g in every if any(g.widths) and toy.space.bytes(g) <= toy.budget]
    best = max(map(toy.quality, fit))  # of the grid; repairs reach numbers of rows between
    for seed in range(5):
        found = evolve(toy.space, toy, toy.budget, Settings(seed=seed, generations=8))
        assert found.best.quality >= best


def test_evolution_beats_random_search_and_uniform_shrinks_with_as_many_evaluations():
    gains: list[tuple[float, float]] = []
    for seed in range(8):
        toy = Toy((300, 50, 2000, 10, 800, 120), (4, 0, 8, 12, 4, 12), seed)
        found = evolve(toy.space, toy, toy.budget, Settings(seed=seed, generations=10))
        drawn = random_search(toy.space, toy, toy.budget, found.evaluations, seed)
        shrunk = uniform_shrink(toy.space, toy, toy.budget, found.evaluations)
        assert drawn.evaluations == found.evaluations >= shrunk.evaluations
        gains.append((found.best.quality - drawn.best.quality, found.best.quality - shrunk.best.quality))
    mean, error = np.mean(gains, axis=0), np.std(gains, axis=0, ddof=1) / np.sqrt(len(gains))
    assert (mean > 3 * error).all()


def test_bytes_decide_between_equals():
    """Without a size term a search cannot trade size for quality (METHODS: OptEmbed's traps)."""
    toy = Toy()
    outcome = evolve(toy.space, lambda genomes: [1.0] * len(genomes), toy.budget, FEW)
    assert outcome.best.bytes == min(scored.bytes for scored in outcome.evaluated)
    start = evolve(toy.space, lambda genomes: [1.0] * len(genomes), toy.budget, Settings(generations=0))
    assert outcome.best.bytes < start.best.bytes


def test_more_quality_for_more_bytes_ends_at_the_budget():
    toy = Toy()
    size = lambda genomes: [float(toy.space.bytes(genome)) for genome in genomes]  # noqa: E731
    assert 0.98 * toy.budget < evolve(toy.space, size, toy.budget, FEW).best.bytes <= toy.budget


def test_the_front_holds_every_trade():
    toy = Toy()
    most = toy.space.bytes(toy.space.everything())
    outcome = pareto_front(toy.space, toy, most)
    front = outcome.front
    assert all(a.bytes < b.bytes and a.quality < b.quality for a, b in itertools.pairwise(front))
    for scored in outcome.evaluated:
        assert any(one.bytes <= scored.bytes and one.quality >= scored.quality for one in front)
    sizes = np.log([one.bytes for one in front])
    assert len(front) >= 20
    assert sizes[0] < np.log(most / 8)
    assert sizes[-1] > np.log(most / 2)
    for share in (0.1, 0.2, 0.5):  # at each budget better than the cuts on score it began with
        budget = int(share * most)
        found = max(one.quality for one in front if one.bytes <= budget)
        assert found > max(toy.quality(toy.space.by_score(width, budget)) for width in (4, 8, 12))


def test_evolution_stays_where_quality_is_and_the_front_spreads():
    toy = Toy()
    settings = Settings(generations=10)
    stays, spreads = (
        np.median([one.bytes for one in search(toy.space, toy, toy.budget, settings).evaluated[-60:]])
        for search in (evolve, pareto_front)
    )
    assert stays > 0.8 * toy.budget
    assert spreads < 0.6 * toy.budget


def test_crossovers_are_made_of_the_fields_of_the_first_population():
    toy = Toy()
    budget = toy.space.bytes(toy.space.everything())  # everything fits: no repair
    settings = Settings(mutations=0, crossovers=10, generations=1)
    outcome = evolve(toy.space, toy, budget, settings)
    first, children = outcome.evaluated[:20], outcome.evaluated[20:]
    assert len(children) == 10
    for i in range(len(toy.sizes)):
        genes = {(one.genome.widths[i], one.genome.rows[i]) for one in first}
        assert genes >= {(one.genome.widths[i], one.genome.rows[i]) for one in children}


def test_history_is_the_best_so_far():
    genome = Genome((4,), (1,))
    scores = [(1.0, 50), (0.5, 10), (2.0, 90), (2.0, 80), (2.0, 85)]
    outcome = Outcome(tuple(Scored(genome, quality, size) for quality, size in scores))
    assert outcome.history == [(1, 1.0, 50), (3, 2.0, 90), (4, 2.0, 80)]
    assert outcome.best == Scored(genome, 2.0, 80)
    assert [one.bytes for one in outcome.front] == [10, 50, 80]


@given(st.integers(0, 10**6), st.floats(0.01, 1.0), st.floats(0, 1))
def test_children_are_genomes_that_fit_and_parents_stay_as_they_were(seed: int, rate: float, share: float):
    toy = Toy(seed=seed)
    space, random = toy.space, np.random.default_rng(seed)
    budget = int(space.least_bytes + share * space.bytes(space.everything()))
    left, right = any_genomes(space, seed, 2)
    before = left.to_dict(), right.to_dict()
    for child in (mutated(space, left, rate, random), crossed(left, right, random)):
        space.check(child)
        assert space.bytes(space.fit(child, budget)) <= budget
    assert (left.to_dict(), right.to_dict()) == before


def test_a_mutation_redraws_about_as_many_genes_as_its_rate_says():
    names = tuple(f"f{i}" for i in range(200))
    scores = {name: np.ones(2 + 1000) for name in names}
    space = GenomeSpace(names, dict.fromkeys(names, 1002), scores, embedding_dim=64)
    parent = space.everything()
    child = mutated(space, parent, 0.1, np.random.default_rng(0))
    changed = sum(a != b for a, b in zip(parent.widths, child.widths, strict=True))
    rows = sum(a != b and w > 0 for a, b, w in zip(parent.rows, child.rows, child.widths, strict=True))
    assert 10 <= changed <= 30
    assert 8 <= rows <= 30
    nothing = Genome((64, *[0] * 199), (0,) * 200)
    child = mutated(space, nothing, 0.1, np.random.default_rng(0))
    rows_of_new = [rows for width, rows in zip(child.widths[1:], child.rows[1:], strict=True) if width]
    assert len(rows_of_new) >= 10
    assert (
        np.count_nonzero(rows_of_new) >= len(rows_of_new) // 2
    )  # a field that comes back draws its rows too


def test_crossover_takes_whole_fields_of_both_parents_in_every_draw():
    """A point drawn over widths instead of fields does nothing most of the time (METHODS: OptEmbed's traps)."""
    left, right = Genome((4,) * 5, (10, 11, 12, 13, 14)), Genome((8,) * 5, (20, 21, 22, 23, 24))
    points = set()
    for seed in range(50):
        child = crossed(left, right, np.random.default_rng(seed))
        point = child.widths.count(4)
        assert child.widths == (4,) * point + (8,) * (5 - point)
        assert child.rows == left.rows[:point] + right.rows[point:]
        points.add(point)
    assert points == {1, 2, 3, 4}


def test_children_without_any_field_are_not_made():
    left, right = Genome((0, 4), (0, 3)), Genome((4, 0), (3, 0))
    for seed in range(10):
        assert crossed(left, right, np.random.default_rng(seed)) == left
    assert crossed(Genome((4,), (1,)), Genome((8,), (2,)), np.random.default_rng(0)) == Genome((4,), (1,))
    space = GenomeSpace(("a",), {"a": 3}, {"a": np.ones(3)}, embedding_dim=4)
    drawn = {mutated(space, space.everything(), 1.0, np.random.default_rng(seed)) for seed in range(30)}
    assert drawn == {Genome((4,), (0,)), Genome((4,), (1,))}


def test_a_space_with_fewer_genomes_than_a_search_wants_is_searched_through():
    space = GenomeSpace(("a",), {"a": 3}, {"a": np.ones(3)}, embedding_dim=4)
    for search in SEARCHES.values():
        outcome = search(space, lambda genomes: [genome.rows[0] for genome in genomes], 10**6)
        assert outcome.best.genome == Genome((4,), (1,))
        assert outcome.evaluations == 2


def peeled(quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Ranks by the definition: take away what nothing left dominates, again and again."""
    ranks = np.full(len(quality), -1)
    for rank in itertools.count():
        left = np.flatnonzero(ranks < 0)
        if not len(left):
            return ranks
        for i in left:
            no_worse = (quality[left] >= quality[i]) & (cost[left] <= cost[i])
            better = (quality[left] > quality[i]) | (cost[left] < cost[i])
            if not (no_worse & better).any():
                ranks[i] = -2 - rank
        ranks[ranks <= -2] = rank


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_fronts_are_those_of_peeling(points: list[tuple[int, int]]):
    quality, cost = np.array(points, float).T
    assert front_ranks(quality, cost).tolist() == peeled(quality, cost).tolist()


def test_crowding_by_hand_and_the_order_of_a_front():
    quality, cost = np.array([0.0, 1, 2, 4]), np.array([0.0, 5, 6, 10])
    assert crowding_distance(quality, cost).tolist() == [np.inf, 2 / 4 + 6 / 10, 3 / 4 + 5 / 10, np.inf]
    assert crowding_distance(np.ones(3), np.ones(3)).tolist() == [np.inf, 0, np.inf]
    assert crowding_distance(np.ones(1), np.ones(1)).tolist() == [np.inf]
    genome = Genome((4,), (1,))
    points = [(1.0, 10), (2.0, 20), (2.1, 22), (5.0, 40), (0.5, 15)]
    order = by_fronts([Scored(genome, quality, size) for quality, size in points])
    assert [one.quality for one in order] == [1.0, 5.0, 2.1, 2.0, 0.5]


@pytest.mark.parametrize(
    ("qualities", "message"),
    [
        (lambda n: [0.5] * (n - 1), "gave fewer or more qualities"),
        (lambda n: [0.5] * (n + 1), "gave fewer or more qualities"),
        (lambda n: [0.5] * (n - 1) + [float("nan")], r"the quality of Genome\(.*\) is nan"),
        (lambda n: [0.5] * (n - 1) + [float("-inf")], r"the quality of Genome\(.*\) is -inf"),
    ],
)
def test_qualities_that_are_none_are_refused(qualities: Any, message: str):
    toy = Toy()
    with pytest.raises(ValueError, match=message):
        evolve(toy.space, lambda genomes: qualities(len(genomes)), toy.budget)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_budget_that_nothing_fits_is_refused_before_anything_is_evaluated(name: str):
    toy = Toy()
    with pytest.raises(BudgetError, match="the budget is 100"):
        SEARCHES[name](toy.space, toy, 100)
    assert not toy.asked


@pytest.mark.parametrize(
    "given", [{"population": 0}, {"mutations": -1}, {"mutation_rate": 0.0}, {"mutation_rate": 1.5}]
)
def test_settings_that_are_none_are_refused(given: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(given))):
        Settings(**given)


def test_an_interrupted_search_goes_on_from_its_log(tmp_path: Path):
    class Killed(Exception):
        pass

    whole, broken, resumed = Toy(), Toy(), Toy()
    outcome = evolve(whole.space, whole, whole.budget, FEW)

    def killed(genomes: Sequence[Genome]) -> Any:
        for genome in genomes:
            if len(broken.asked) == 20:
                raise Killed
            yield from broken([genome])

    path = tmp_path / "log.jsonl"
    with pytest.raises(Killed):
        evolve(broken.space, killed, broken.budget, FEW, EvaluationLog(path))
    with path.open("a") as file:
        file.write('{"widths": [4, 4')
    log = EvaluationLog(path)
    assert dict(log) == {genome: whole.quality(genome) for genome in whole.asked[:20]}
    assert evolve(resumed.space, resumed, resumed.budget, FEW, log) == outcome
    assert resumed.asked == whole.asked[20:]
    assert dict(EvaluationLog(path)) == {one.genome: one.quality for one in outcome.evaluated}


def test_a_damaged_line_of_a_log_is_named(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    EvaluationLog(path)[Genome((4,), (1,))] = 0.5
    good = path.read_text()
    for line in (
        *(
            "{",
            '{"widths": [4], "rows": [2]}',
            '{"widths": [3], "rows": [2], "quality": 1}',
            "[]",
            "[" * 9999,
        ),
        *(
            good.strip().replace("0.5", "0.25"),
            good.strip().replace("[1]", "[2]"),
            good.strip().replace("x", "y", 1),
        ),
    ):
        damaged = tmp_path / "damaged.jsonl"
        damaged.write_text(path.read_text() + line + "\n" + path.read_text())
        with pytest.raises(ValueError, match=r"damaged\.jsonl, line 2: .*; remove the line$"):
            EvaluationLog(damaged)
