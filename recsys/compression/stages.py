"""The stages of a compression, each of which has plain inputs and outputs; `search` runs them in their order."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.compression.compact import space_of
from recsys.compression.evaluations import EvaluationLog
from recsys.compression.evolution import Evaluate, Outcome, Settings, evolve, pareto_front
from recsys.compression.learners import learned_of
from recsys.compression.rivals import random_search, uniform_shrink
from recsys.compression.saliency import ranked_by_saliency, saliency, with_defaults
from recsys.compression.space import Genome, GenomeSpace, Learned
from recsys.compression.supernet import Supernet, full_model, validation_rows
from recsys.config import CompressionConfig, ConfigError, ExperimentConfig
from recsys.planning import plan_of
from recsys.training.labels import check_measured
from recsys.training.run import Run
from recsys_cython_ext.files import is_sealed, lock_of, locked, seal, text_digest
from recsys_cython_ext.progress import Progress
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.shards import read_arrays, write_arrays

VERSION = 3  # of how rows are ranked and genomes judged, and of the files that keep it

Evaluator = Callable[[Supernet], AbstractContextManager[Evaluate]]


@dataclass(frozen=True)
class Searches:
    """What the searches of a space found on validation rows.

    outcomes: by search, `evolution` first, then its rivals. front: quality by bytes up to the full table's.
    full: quality of the genome of all rows and columns that the learner keeps.
    """

    outcomes: dict[str, Outcome]
    front: Outcome
    full: float


def require_full_tables(config: ExperimentConfig) -> None:
    """Raise ConfigError where the tables of an experiment are not full ones."""
    if config.tables.scheme != "full":
        raise ConfigError(
            f"{config.name}: tables.scheme is {config.tables.scheme!r}; a search starts from full tables, so set it "
            "to 'full', and a learner's in compression.learner"
        )


def learner_of(config: ExperimentConfig) -> ExperimentConfig:
    """Return the experiment of the learner. Raises ConfigError where the tables of `config` are not full ones."""
    require_full_tables(config)
    return config.replace(
        {**config.compression.learner, "name": f"{config.name}-learner"},
        where=f"{config.name}: compression.learner",
    )


def rows_to_judge_on(
    config: ExperimentConfig, learner: ExperimentConfig, prepared: Prepared, limit: int, compares: bool
) -> Rows:
    """Say before training what would fail after it, and return the validation rows that genomes are judged on.

    Args:
        config: The experiment.
        learner: The learner's.
        prepared: The rows of both.
        limit: Bytes that the smallest tables must fit.
        compares: Whether a comparison on test rows follows.

    Raises:
        ConfigError: The learner's tables learn no masks.
        BudgetError: The smallest tables that keep every field do not fit.
        OneClass: Validation or test rows cannot judge, for all their labels are the same.
    """
    _check_space(config, learner, prepared.features(), limit)
    compression = config.compression
    rows = validation_rows(prepared, compression.validation_rows, compression.seed)
    check_measured("validation", len(rows), int(np.count_nonzero(rows.label)), "the search for small tables")
    if compares:
        test = prepared.manifest.splits["test"]
        check_measured("test", test.rows, test.positives, "a comparison")
    return rows


def _check_space(config: ExperimentConfig, learner: ExperimentConfig, features: Features, limit: int) -> None:
    schemes = [s for s in plan_of(learner, features).schemes if s.owner is s]
    if not all(hasattr(scheme, "learned") for scheme in schemes):
        raise ConfigError(
            f"{config.name}: compression.learner: tables of scheme {learner.tables.scheme!r} learn no masks; take one that "
            "does, such as opt_embed"
        )
    ones = {scheme.feature: np.ones(scheme.num_ids or 0) for scheme in schemes}
    everything_learned = Learned({}, ones, dict.fromkeys(ones, config.tables.embedding_dim))
    space = space_of(config, features, everything_learned)
    space.fit(space.everything(), limit)


def rank_rows(learner: Run, prepared: Prepared, min_count: int, progress: Progress) -> Learned:
    """Return what the learner leaves, ranked by what training would lose with each row; it is kept with the run."""
    rows = Rows.load(prepared, "train")
    learned = with_defaults(learned_of(learner), rows, min_count)
    file = learner.path / f"saliency-{VERSION}.npz"
    with locked(lock_of(file)):
        if not is_sealed(file):
            size = learner.config.evaluation.batch_size
            by_feature = saliency(full_model(learner, learned.weights), learned, rows, size, progress)
            write_arrays(((str(n), by_feature[name]) for n, name in enumerate(learned.weights)), file)
            seal(file)
        scores = read_arrays(file)
    return ranked_by_saliency(learned, {name: scores[str(n)] for n, name in enumerate(learned.weights)})


def search_genomes(
    supernet: Supernet,
    space: GenomeSpace,
    limit: int,
    compression: CompressionConfig,
    evaluator: Evaluator,
    folder: Path,
    progress: Progress,
) -> Searches:
    """Search by evolution, by its rivals with as many evaluations, and for the front up to the full table's bytes.

    Qualities that `folder` holds are not computed again, and new ones are written there as they come.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "evaluations.jsonl"
    settings = settings_of(compression)
    total = settings.population + settings.generations * (settings.mutations + settings.crossovers)
    everything = space.everything()
    with locked(lock_of(log)), evaluator(supernet) as evaluate:  # one process writes to the log
        known = EvaluationLog(log)

        def counted(stage: str) -> Evaluate:
            return _with_progress(evaluate, stage, total, progress)

        evolution = evolve(space, counted("evolution"), limit, settings, known)
        tried, seed = evolution.evaluations, compression.seed
        outcomes = {
            "evolution": evolution,
            "random": random_search(space, counted("random search"), limit, tried, seed, known),
            "uniform": uniform_shrink(space, counted("uniform shrink"), limit, tried, known),
        }
        front = pareto_front(space, counted("Pareto front"), space.bytes(everything), settings, known)
        if everything not in known:
            (known[everything],) = evaluate([everything])
    return Searches(outcomes, front, known[everything])


def settings_of(compression: CompressionConfig) -> Settings:
    """Return the sizes of the evolution that a section `compression` declares."""
    return Settings(
        population=compression.population,
        mutations=compression.mutations,
        crossovers=compression.crossovers,
        generations=compression.generations,
        mutation_rate=compression.mutation_rate,
        seed=compression.seed,
    )


def _with_progress(evaluate: Evaluate, stage: str, total: int, progress: Progress) -> Evaluate:
    """Return an evaluation that tells how many genomes are done."""
    done = 0

    def evaluate_and_count(genomes: Sequence[Genome]) -> Iterator[float]:
        nonlocal done
        qualities: Iterable[float] = evaluate(genomes)
        for quality in qualities:
            done += 1
            progress(stage, done, max(total, done))  # a first population may be larger
            yield quality

    return evaluate_and_count


def search_digest(config: ExperimentConfig, learner: Run) -> str:
    """Return a digest of all that the quality of a genome depends on."""
    compression = config.compression
    dependencies = [
        VERSION,
        learner.checkpoint_digest,
        learner.prepared_path.name,
        compression.min_count,
        compression.validation_rows,
        compression.seed,
    ]
    return text_digest(json.dumps(dependencies))
