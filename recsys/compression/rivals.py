"""An evolution must beat its rivals, which have as many evaluations: random genomes, and all fields shrunk alike."""

from collections.abc import MutableMapping

import numpy as np

from recsys.compression.evolution import Evaluate, Evaluations, Outcome, distinct, mutated
from recsys.compression.space import Genome, GenomeSpace

BATCH = 20  # genomes evaluated at once


def random_search(
    space: GenomeSpace,
    evaluate: Evaluate,
    budget_bytes: int,
    evaluations: int,
    seed: int = 0,
    known: MutableMapping[Genome, float] | None = None,
) -> Outcome:
    """Evaluate genomes whose genes are all drawn at random, repaired to fit the budget. Raises as `evolution.evolve`."""
    random = np.random.default_rng(seed)
    everything = space.everything()

    def draw() -> Genome:
        return space.fit(mutated(space, everything, 1.0, random), budget_bytes)

    return _evaluated(Evaluations(space, evaluate, known), distinct(draw, evaluations, ()))


def uniform_shrink(
    space: GenomeSpace,
    evaluate: Evaluate,
    budget_bytes: int,
    evaluations: int,
    known: MutableMapping[Genome, float] | None = None,
) -> Outcome:
    """Evaluate genomes of one width and one share of ids for all fields.

    They are, at every width, the largest share that fits, then those over √2, over 2, …, for as many genomes as there are
    `evaluations`. Raises as `evolution.evolve` does.
    """
    widths = space.widths_for_all
    shares = {width: space.uniform_share(width, budget_bytes) for width in widths}
    steps = range(2 * max(space.num_codes.values()).bit_length())  # down to one id of the largest field
    genomes = dict.fromkeys(
        space.fit(space.uniform(width, shares[width] / 2 ** (step / 2)), budget_bytes)
        for step in steps
        for width in widths
    )
    return _evaluated(Evaluations(space, evaluate, known), list(genomes)[:evaluations])


def _evaluated(evaluations: Evaluations, genomes: list[Genome]) -> Outcome:
    for start in range(0, len(genomes), BATCH):
        evaluations(genomes[start : start + BATCH])
    return evaluations.outcome()
