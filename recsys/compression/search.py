"""An experiment gets small tables by a learner, a search on validation rows, compact tables, seeds and an artefact.

<runs>/<name>-search-<digest>/
  evaluations.jsonl    qualities of genomes, as they come
  <budget>/            the compact experiments (`compact.write_compact`), and the artefact of the first seed

The learner's run, the trained arms and the evaluations are kept, so the same command goes on where it was.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recsys.comparison.experiments import Result, run_comparison
from recsys.compression.compact import space_of, write_compact
from recsys.compression.evolution import Outcome
from recsys.compression.space import Genome, GenomeSpace
from recsys.compression.stages import (
    Evaluator,
    learner_of,
    rank_rows,
    rows_to_judge_on,
    search_digest,
    search_genomes,
)
from recsys.compression.supernet import Supernet
from recsys.config import ExperimentConfig, load_experiment
from recsys.planning import plan_of
from recsys.serving.export import export
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.schemes.declared import budget_bytes, check_budget
from recsys_tables.serving.quantise import Dtype


@dataclass(frozen=True)
class CompressionResult:
    """What a search found: genomes, and what became of those that were trained.

    learner: its finished run. full, outcomes, front: as of `stages.Searches`.
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
    def experiment(self) -> Path:
        """Return the file of the evolution's compact experiment."""
        return self.compact["evolution"]

    @property
    def best(self) -> Genome:
        """Return the evolution's best genome."""
        return self.outcomes["evolution"].best.genome

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "budget": self.budget,
            "budget_bytes": self.budget_bytes,
            "full_bytes": self.full_bytes,
            "features": list(self.space.features),
            "learner": str(self.learner.path),
            "quality_of_all_kept": self.full,
            "bytes_of_all_kept": self.space.bytes(self.space.everything()),
            "searches": {name: _plain(outcome) for name, outcome in self.outcomes.items()},
            "front": [
                {**s.genome.to_dict(), "quality": s.quality, "bytes": s.bytes} for s in self.front.front
            ],
            "compact": {name: str(path) for name, path in self.compact.items()},
            "compared": None if self.compared is None else self.compared.to_dict(),
            "artefact": None if self.artefact is None else str(self.artefact),
        }


def _plain(outcome: Outcome) -> dict[str, Any]:
    best = outcome.best
    return {
        "genome": best.genome.to_dict(),
        "quality": best.quality,
        "bytes": best.bytes,
        "evaluations": outcome.evaluations,
        "history": outcome.history,
    }


def run_compression(
    config: ExperimentConfig,
    budget: str,
    prepared: Prepared,
    roots: tuple[str | Path, str | Path],
    evaluator: Evaluator,
    seeds: int = 5,
    jobs: int | None = None,
    effect: float | None = None,
    dtype: Dtype = "fp32",
    watch: Watch | None = None,
    progress: Progress = no_progress,
) -> CompressionResult:
    """Find the best compact model of `config`, of full tables, whose resident bytes are at most `budget`.

    Only validation rows choose.

    Args:
        config: An experiment of full tables; its section `compression` says how.
        budget: Bytes, such as 64MB, or a share of the full table's, such as 10%.
        prepared: The rows of the experiment.
        roots: The folders of runs and of prepared data.
        evaluator: Where genomes are evaluated.
        seeds: Of the final comparison with the full table; 0 stops before it.
        jobs: As of `run_comparison`.
        effect: As of `run_comparison`.
        dtype: Of the artefact's tables.
        watch: Is told how the learner trains.
        progress: Is told how all else goes.

    Raises:
        ConfigError: The tables are not `full`.
        BudgetError: The smallest tables that keep every field do not fit.
        ValueError: As `train`, `learned_of` and `run_comparison` do.
    """
    runs, prepared_root = map(Path, roots)
    compares = seeds > 0
    result, folder = _search(config, budget, prepared, runs, evaluator, compares, watch, progress)
    if not compares:
        return result
    arms = [config, *map(load_experiment, result.compact.values())]
    compared = run_comparison(
        arms, seeds, runs, prepared_root, jobs, progress, effect=effect, baseline=config.name
    )
    return replace(result, compared=compared, artefact=_export_first_seed(compared, folder, dtype))


def _search(
    config: ExperimentConfig,
    budget: str,
    prepared: Prepared,
    runs: Path,
    evaluator: Evaluator,
    compares: bool,
    watch: Watch | None,
    progress: Progress,
) -> tuple[CompressionResult, Path]:
    """Return what validation rows choose, before it is compared, and the folder of the compact experiments."""
    learner_config = learner_of(config)
    full_bytes = plan_of(config, prepared.features()).full_bytes
    limit = budget_bytes(check_budget(budget), full_bytes)
    rows = rows_to_judge_on(config, learner_config, prepared, limit, compares)
    learner = train(learner_config, prepared, runs, watch)
    learned = rank_rows(learner, prepared, config.compression.min_count, progress)
    space = space_of(config, prepared.features(), learned)
    supernet = Supernet(learner, learned, space, rows)
    folder = runs / f"{config.name}-search-{search_digest(config, learner)}"
    searches = search_genomes(supernet, space, limit, config.compression, evaluator, folder, progress)
    place = folder / budget.replace(" ", "").replace("%", "pct")
    compact = {}
    for search, outcome in searches.outcomes.items():
        name, best = f"{config.name}-{search}", outcome.best.genome
        compact[search] = write_compact(config, name, learner, learned, space, best, place)
    result = CompressionResult(
        config=config,
        budget=budget,
        budget_bytes=limit,
        full_bytes=full_bytes,
        space=space,
        learner=learner,
        full=searches.full,
        outcomes=searches.outcomes,
        front=searches.front,
        compact=compact,
        compared=None,
        artefact=None,
        prepared=prepared.path,
    )
    return result, place


def _export_first_seed(compared: Result, folder: Path, dtype: Dtype) -> Path:
    """Export the first run of the evolution's arm below `folder`, and return the artefact's folder."""
    run = compared.arms[1].runs[0]
    out = folder / f"artefact-{dtype}-{run.path.parent.name.rpartition('-')[2]}"
    export(run, out, dtype)
    return out
