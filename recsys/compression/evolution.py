"""Genomes evolve: which widths and rows are best under a byte budget, or at every number of bytes.

A generation is evaluated at once, so that whoever evaluates may do it in parallel; a genome is evaluated only once.
Genomes are values: a parent never changes, and what is returned is what was scored.

Two searches share all parts but the order of a population, best first: `evolve` by quality (Lyu et al., CIKM
2022), `pareto_front` by fronts and crowding (Deb et al. 2002, NSGA-II).
"""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np

from recsys.compression.space import Genome, GenomeSpace

Evaluate = Callable[[Sequence[Genome]], Iterable[float]]  # higher is better; may yield them as they come
Order = Callable[[Sequence["Scored"]], list["Scored"]]

FIRST = 4  # times as large as the later populations of a front is the first
DRAWS = 50  # for each genome wanted, before there is taken to be no new one


@dataclass(frozen=True)
class Settings:
    """Sizes of a search, as OptEmbed's; every gene of a mutant is drawn anew with `mutation_rate`."""

    population: int = 20
    mutations: int = 10
    crossovers: int = 10
    generations: int = 30
    mutation_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 1 or min(self.mutations, self.crossovers, self.generations) < 0:
            raise ValueError(f"{self}: population is 1 or more, the other numbers 0 or more")
        if not 0 < self.mutation_rate <= 1:
            raise ValueError(f"mutation_rate {self.mutation_rate} is not above 0 and at most 1")


@dataclass(frozen=True)
class Scored:
    """A genome, its quality on validation rows, and its bytes."""

    genome: Genome
    quality: float
    bytes: int


@dataclass(frozen=True)
class Outcome:
    """The genomes that a search evaluated, in its order; there is at least one."""

    evaluated: tuple[Scored, ...]

    @property
    def best(self) -> Scored:
        """Return the genome of the best quality; of equals the one of fewest bytes, then the earliest."""
        return by_quality(self.evaluated)[0]

    @property
    def evaluations(self) -> int:
        """Count the genomes that were evaluated, each once; those known beforehand count too."""
        return len(self.evaluated)

    @property
    def history(self) -> list[tuple[int, float, int]]:
        """Return evaluations so far, and quality and bytes of the best so far, whenever that changes."""
        steps: list[tuple[int, float, int]] = []
        for i, new in enumerate(self.evaluated, 1):
            if not steps or (new.quality, -new.bytes) > (steps[-1][1], -steps[-1][2]):
                steps.append((i, new.quality, new.bytes))
        return steps

    @property
    def front(self) -> list[Scored]:
        """Return the genomes that no other beats in quality without more bytes, by rising bytes."""
        ranks = front_ranks(*_objectives(self.evaluated))
        best = [scored for scored, rank in zip(self.evaluated, ranks, strict=True) if rank == 0]
        return sorted(best, key=lambda scored: scored.bytes)


class Evaluations:
    """The evaluations of a search, each genome once; `known` holds earlier qualities, and takes new ones as they come."""

    def __init__(
        self, space: GenomeSpace, evaluate: Evaluate, known: MutableMapping[Genome, float] | None = None
    ) -> None:
        self._space = space
        self._evaluate = evaluate
        self._known = {} if known is None else known
        self.scored: dict[Genome, Scored] = {}

    def __call__(self, genomes: Iterable[Genome]) -> list[Scored]:
        """Return the new ones of `genomes` with their qualities.

        Raises ValueError where the evaluation gives a number that is not finite, or not one for each genome.
        """
        new = [genome for genome in dict.fromkeys(genomes) if genome not in self.scored]
        if unknown := [genome for genome in new if genome not in self._known]:
            for genome, quality in zip_longest(unknown, self._evaluate(unknown)):
                if genome is None or quality is None:
                    raise ValueError(f"an evaluation of {len(unknown)} genomes gave fewer or more qualities")
                if not np.isfinite(quality):
                    raise ValueError(
                        f"the quality of {genome} is {quality}: evaluate must give finite numbers"
                    )
                self._known[genome] = float(quality)
        for genome in new:
            self.scored[genome] = Scored(genome, self._known[genome], self._space.bytes(genome))
        return [self.scored[genome] for genome in new]

    def outcome(self) -> Outcome:
        """Return everything that was evaluated so far."""
        return Outcome(tuple(self.scored.values()))


def evolve(
    space: GenomeSpace,
    evaluate: Evaluate,
    budget_bytes: int,
    settings: Settings = Settings(),
    known: MutableMapping[Genome, float] | None = None,
) -> Outcome:
    """Search for the best quality in `budget_bytes`; of equals, fewer bytes. Equal settings give an equal outcome.

    The first population: at every width the best ids of all fields, and the same share of every field's, that fit;
    mutants of these where they are too few.
    Raises BudgetError as `GenomeSpace.fit` does, ValueError as `Evaluations` does.
    """
    first = [space.by_score(width, budget_bytes) for width in space.widths_for_all]
    first += [
        space.fit(space.uniform(width, space.uniform_share(width, budget_bytes)), budget_bytes)
        for width in space.widths_for_all
    ]
    first += without_each_field(space, first[len(space.widths_for_all) // 2])
    return _search(Evaluations(space, evaluate, known), space, first, budget_bytes, settings, by_quality)


def pareto_front(
    space: GenomeSpace,
    evaluate: Evaluate,
    budget_bytes: int,
    settings: Settings = Settings(),
    known: MutableMapping[Genome, float] | None = None,
) -> Outcome:
    """Search for the best quality at every number of bytes up to `budget_bytes`: `Outcome.front`.

    The first population: at every width the best ids of all fields that fit, for budgets that fall by one ratio. It is
    larger than the later ones, so that every size begins with every width.
    Raises as `evolve` does.
    """
    widths = space.widths_for_all
    number = -(-FIRST * settings.population // len(widths))
    budgets = np.geomspace(budget_bytes, min(space.least_bytes, budget_bytes), number)
    first = [space.by_score(width, round(budget)) for budget in budgets for width in widths]
    return _search(Evaluations(space, evaluate, known), space, first, budget_bytes, settings, by_fronts)


def mutated(space: GenomeSpace, genome: Genome, rate: float, random: np.random.Generator) -> Genome:
    """Return a mutant, each of whose genes is drawn from its choices with probability `rate`, else that of `genome`.

    A field that had been given up and gets a width draws its rows too. A mutant without any field is `genome`.
    """
    widths, rows = list(genome.widths), list(genome.rows)
    changes = random.random((2, len(widths))) < rate
    for i in range(len(widths)):
        if changes[0, i]:
            widths[i] = _random_choice(space.width_choices[i], random)
        if changes[1, i] or (widths[i] and not genome.widths[i]):
            rows[i] = _random_choice(space.row_choices[i], random)
        if not widths[i]:
            rows[i] = 0
    return Genome(tuple(widths), tuple(rows)) if any(widths) else genome


def crossed(left: Genome, right: Genome, random: np.random.Generator) -> Genome:
    """Return a child of the first fields of one parent and the last of the other, one or more of each.

    A field's genes travel together. A child without any field is `left`, and so is a child of a single field.
    """
    point = int(random.integers(1, max(len(left.widths), 2)))
    widths = left.widths[:point] + right.widths[point:]
    return Genome(widths, left.rows[:point] + right.rows[point:]) if any(widths) else left


def without_each_field(space: GenomeSpace, genome: Genome) -> list[Genome]:
    """Return `genome` once for each field it has, with that field given up; nothing where it has one field only."""
    fields = [i for i, width in enumerate(genome.widths) if width and sum(map(bool, genome.widths)) > 1]

    def without(i: int) -> Genome:
        drop = [*genome.widths[:i], 0, *genome.widths[i + 1 :]], [*genome.rows[:i], 0, *genome.rows[i + 1 :]]
        return Genome(tuple(drop[0]), tuple(drop[1]))

    return [without(i) for i in fields]


def distinct(make: Callable[[], Genome], number: int, known: Container[Genome]) -> list[Genome]:
    """Return `number` different genomes of `make` that are not `known`; fewer where it makes no more."""
    genomes: dict[Genome, None] = {}
    for _ in range(DRAWS * number):
        if len(genomes) == number:
            break
        if (genome := make()) not in known:
            genomes[genome] = None
    return list(genomes)


def by_quality(scored: Sequence[Scored]) -> list[Scored]:
    """Order genomes by falling quality; of equals the one of fewest bytes comes first."""
    return sorted(scored, key=lambda one: (-one.quality, one.bytes))


def by_fronts(scored: Sequence[Scored]) -> list[Scored]:
    """Order genomes by fronts, the best first; within a front the loneliest first (Deb et al. 2002, crowded comparison)."""
    quality, log_bytes = _objectives(scored)
    ranks = front_ranks(quality, log_bytes)
    crowding = np.empty(len(scored))
    for rank in np.unique(ranks):
        members = ranks == rank
        crowding[members] = crowding_distance(quality[members], log_bytes[members])
    return [scored[i] for i in np.lexsort((-crowding, ranks))]


def front_ranks(quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Sort points [n] into non-dominated fronts: 0 where no other is as good for less, or better for as much.

    Rank 1 is 0 once rank 0 is gone, and so on; int64 [n]. In O(n log n), for two objectives (Jensen 2003). Written here,
    for pymoo's public `NonDominatedSorting` comes with 34 MB of packages, and Optuna's function is private.
    """
    points, inverse = np.unique(np.column_stack([cost, -quality]), axis=0, return_inverse=True)
    ranks = np.empty(len(points), np.int64)
    losses: list[float] = []  # -quality of the last point of each front: rising
    for i, loss in enumerate(points[:, 1]):
        rank = bisect_right(losses, loss)
        losses[rank : rank + 1] = [loss]
        ranks[i] = rank
    return ranks[inverse.reshape(-1)]


def crowding_distance(*objectives: np.ndarray) -> np.ndarray:
    """Measure how far each point [n] of a front is from its neighbours: inf at the ends (Deb et al. 2002, §III-B)."""
    distance = np.zeros(len(objectives[0]))
    for values in objectives:
        order = np.argsort(values, kind="stable")
        span = np.ptp(values) or 1.0
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance


def _search(
    evaluations: Evaluations,
    space: GenomeSpace,
    first: list[Genome],
    budget_bytes: int,
    settings: Settings,
    order: Order,
) -> Outcome:
    random = np.random.default_rng(settings.seed)

    def mutant(parents: Sequence[Genome]) -> Genome:
        return space.fit(
            mutated(space, _winner(parents, random), settings.mutation_rate, random), budget_bytes
        )

    def child(parents: Sequence[Genome]) -> Genome:
        return space.fit(crossed(_winner(parents, random), _winner(parents, random), random), budget_bytes)

    population = order(evaluations(first))
    more = partial(mutant, [scored.genome for scored in population])
    new = distinct(more, settings.population - len(population), evaluations.scored)
    population = order(population + evaluations(new))[: settings.population]
    for _ in range(settings.generations):
        parents = [scored.genome for scored in population]
        new = distinct(partial(mutant, parents), settings.mutations, evaluations.scored)
        known = evaluations.scored.keys() | new
        new += distinct(partial(child, parents), settings.crossovers, known)
        population = order(population + evaluations(new))[: settings.population]
    return evaluations.outcome()


def _winner(parents: Sequence[Genome], random: np.random.Generator) -> Genome:
    """Draw two parents, which stand best first, and return the better one."""
    return parents[int(random.integers(len(parents), size=2).min())]


def _random_choice(choices: Sequence[int], random: np.random.Generator) -> int:
    return choices[int(random.integers(len(choices)))]


def _objectives(scored: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Return quality and log(bytes) [n], so that half the bytes are as far away at every size."""
    return np.array([one.quality for one in scored]), np.log([one.bytes for one in scored])
