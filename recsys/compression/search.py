"""From an experiment to small tables: a learner, a search on validation rows, compact tables, seeds, an artefact.

<runs>/<name>-search-<digest>/
  evaluations.jsonl    qualities of genomes, as they come
  <budget>/            the compact experiments (`compact.write_compact`), and the artefact of the first seed

The learner's run, the trained arms and the evaluations are kept, so the same command goes on where it was.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.comparison.experiments import Result, run_comparison
from recsys.compression.compact import learner_digest, space_of, write_compact
from recsys.compression.evaluations import EvaluationLog
from recsys.compression.evolution import Evaluate, Outcome, Settings, evolve, pareto_front
from recsys.compression.learners import learned_of
from recsys.compression.rivals import random_search, uniform_shrink
from recsys.compression.saliency import ranked_by_saliency, saliency, with_defaults
from recsys.compression.space import Genome, GenomeSpace, Learned
from recsys.compression.supernet import Supernet, full_model, validation_rows
from recsys.config import ConfigError, ExperimentConfig, load
from recsys.planning import plan_of
from recsys.serving.export import export
from recsys.training.labels import check_measured
from recsys.training.loop import Watch
from recsys.training.run import Run, train
from recsys_cython_ext.files import is_sealed, lock_of, locked, seal, text_digest
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.shards import read_arrays, write_arrays
from recsys_tables.schemes.declared import budget_bytes, check_budget
from recsys_tables.serving.quantise import Dtype

VERSION = 3  # of how rows are ranked and genomes judged, and of the files that keep it

Evaluator = Callable[[Supernet], AbstractContextManager[Evaluate]]


@dataclass(frozen=True)
class CompressionResult:
    """What a search found: genomes, and what became of those that were trained.

    learner: its finished run. full: the genome of all rows and columns that it keeps, on validation.
    outcomes: by search, `evolution` first, then its rivals. front: quality by bytes up to the full table's.
    compared: the full table and the best genome of each search, trained; None where nothing was.
    """

    config: ExperimentConfig
    budget: str
    budget_bytes: int
    full_bytes: int
    space: GenomeSpace
    learner: Run
    full: float
    outcomes: dict[str, Outcome]
    front: Outcome
    compact: dict[str, Path]  # experiment files, by search
    compared: Result | None
    artefact: Path | None
    prepared: Path  # what the learner was trained on

    @property
    def best(self) -> Genome:
        """The evolution's."""
        return self.outcomes["evolution"].best.genome

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""

        def scored(outcome: Outcome) -> dict[str, Any]:
            best = outcome.best
            return {
                "genome": best.genome.to_dict(),
                "quality": best.quality,
                "bytes": best.bytes,
                "evaluations": outcome.evaluations,
                "history": outcome.history,
            }

        return {
            "budget": self.budget,
            "budget_bytes": self.budget_bytes,
            "full_bytes": self.full_bytes,
            "features": list(self.space.features),
            "learner": str(self.learner.path),
            "quality_of_all_kept": self.full,
            "bytes_of_all_kept": self.space.bytes(self.space.everything()),
            "searches": {name: scored(outcome) for name, outcome in self.outcomes.items()},
            "front": [
                {**s.genome.to_dict(), "quality": s.quality, "bytes": s.bytes} for s in self.front.front
            ],
            "compact": {name: str(path) for name, path in self.compact.items()},
            "compared": None if self.compared is None else self.compared.to_dict(),
            "artefact": None if self.artefact is None else str(self.artefact),
        }


def run_compression(
    config: ExperimentConfig,
    budget: str,
    prepared: Prepared,
    roots: tuple[Path, Path],
    evaluator: Evaluator,
    seeds: int = 5,
    jobs: int | None = None,
    effect: float | None = None,
    dtype: Dtype = "fp32",
    watch: Watch | None = None,
    progress: Progress = no_progress,
) -> CompressionResult:
    """Find the best compact model of `config`, of full tables, whose resident bytes are at most `budget`.

    roots: the folders of runs and of prepared data. `evaluator` says where genomes are evaluated. seeds: of the final
    comparison with the full table; 0 stops before it. effect, jobs: as of `run_comparison`.

    Only validation rows choose. Raises ConfigError where the tables are not `full`, BudgetError where the smallest
    tables that keep every field do not fit, and as `train`, `learned_of` and `run_comparison` do.
    """
    if config.tables.scheme != "full":
        raise ConfigError(
            f"{config.name}: tables.scheme is {config.tables.scheme!r}; a search starts from full tables, so set it "
            "to 'full', and the learner's in compression.learner"
        )
    runs, prepared_root = roots
    learner_config = config.replace(
        {**config.compression.learner, "name": f"{config.name}-learner"},
        where=f"{config.name}: compression.learner",
    )
    features = prepared.features()
    full_bytes = plan_of(config, features).full_bytes
    limit = budget_bytes(check_budget(budget), full_bytes)
    _check(config, learner_config, features, limit)
    compression = config.compression
    rows = validation_rows(prepared.path, compression.validation_rows, compression.seed)
    check_measured("validation", len(rows), int(np.count_nonzero(rows.label)), "the search for small tables")
    if seeds > 0:
        test = prepared.manifest.splits["test"]
        check_measured("test", test.rows, test.positives, "a comparison")
    learner = train(learner_config, prepared, runs, watch)
    learned = _ranked(learner, prepared, config.compression.min_count, progress)
    space = space_of(config, features, learned)
    folder = runs / f"{config.name}-search-{_digest(config, learner)}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "evaluations.jsonl"
    settings = Settings(
        compression.population,
        compression.mutations,
        compression.crossovers,
        compression.generations,
        compression.mutation_rate,
        compression.seed,
    )
    supernet = Supernet(learner, learned, space, rows)
    everything = space.everything()
    with locked(lock_of(log)), evaluator(supernet) as evaluate:  # one process writes to the log
        known = EvaluationLog(log)
        of = settings.population + settings.generations * (settings.mutations + settings.crossovers)

        def shown(what: str) -> Evaluate:
            return _shown(evaluate, what, of, progress)

        evolution = evolve(space, shown("evolution"), limit, settings, known)
        tried = evolution.evaluations
        outcomes = {
            "evolution": evolution,
            "random": random_search(space, shown("random search"), limit, tried, compression.seed, known),
            "uniform": uniform_shrink(space, shown("uniform shrink"), limit, tried, known),
        }
        front = pareto_front(space, shown("Pareto front"), space.bytes(everything), settings, known)
        if everything not in known:
            (known[everything],) = evaluate([everything])
    place = folder / budget.replace(" ", "").replace("%", "pct")
    compact = {
        search: write_compact(
            config, f"{config.name}-{search}", learner, learned, space, outcome.best.genome, place
        )
        for search, outcome in outcomes.items()
    }
    found = CompressionResult(
        config,
        budget,
        limit,
        full_bytes,
        space,
        learner,
        known[everything],
        outcomes,
        front,
        compact,
        None,
        None,
        prepared.path,
    )
    if seeds == 0:
        return found
    arms = [config, *map(load, compact.values())]
    compared = run_comparison(
        arms, seeds, runs, prepared_root, jobs, progress, effect=effect, baseline=config.name
    )
    first = compared.arms[1].runs[0]
    out = place / f"artefact-{dtype}-{first.path.parent.name.rpartition('-')[2]}"
    export(first, out, dtype)
    return replace(found, compared=compared, artefact=out)


def _check(config: ExperimentConfig, learner: ExperimentConfig, features: Features, limit: int) -> None:
    """Say before training what would fail after it."""
    own = [s for s in plan_of(learner, features).schemes if s.owner is s]
    if not all(hasattr(scheme, "learned") for scheme in own):
        raise ConfigError(
            f"{config.name}: compression.learner: tables of scheme {learner.tables.scheme!r} learn no masks; take one that "
            "does, such as opt_embed"
        )
    ones = {scheme.feature: np.ones(scheme.num_ids or 0) for scheme in own}
    learned = Learned({}, ones, dict.fromkeys(ones, config.tables.embedding_dim))
    space = space_of(config, features, learned)
    space.fit(space.everything(), limit)


def _ranked(learner: Run, prepared: Prepared, min_count: int, progress: Progress) -> Learned:
    """What the learner leaves, ranked by what training would lose with each row; kept with the run."""
    rows = Rows.load(prepared.path, "train")
    learned = with_defaults(learned_of(learner), rows, min_count)
    file = learner.path / f"saliency-{VERSION}.npz"
    with locked(lock_of(file)):
        if not is_sealed(file):
            size = learner.config.evaluation.batch_size
            found = saliency(full_model(learner, learned), learned, rows, size, progress)
            write_arrays(((str(n), found[name]) for n, name in enumerate(learned.weights)), file)
            seal(file)
        scores = read_arrays(file)
    return ranked_by_saliency(learned, {name: scores[str(n)] for n, name in enumerate(learned.weights)})


def _shown(evaluate: Evaluate, what: str, of: int, progress: Progress) -> Evaluate:
    """Evaluate, and tell how many are done."""
    done = 0

    def told(genomes: Sequence[Genome]) -> Iterator[float]:
        nonlocal done
        qualities: Iterable[float] = evaluate(genomes)
        for quality in qualities:
            done += 1
            progress(what, done, max(of, done))  # a first population may be larger
            yield quality

    return told


def _digest(config: ExperimentConfig, learner: Run) -> str:
    """Of all that an evaluation of a genome depends on."""
    told = [
        VERSION,
        learner_digest(learner),
        Path(learner.metrics["prepared"]).name,
        config.compression.min_count,
        config.compression.validation_rows,
        config.compression.seed,
    ]
    return text_digest(json.dumps(told))
