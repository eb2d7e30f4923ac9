"""What a comparison will cost: its validation trials and training runs that are not there yet."""

from collections.abc import Sequence
from pathlib import Path

from recsys.comparison.candidates import ArmCandidates, draw_candidates
from recsys.config import ExperimentConfig
from recsys.cost import COPIES, LONG_ROWS, Cost, Measured, measure_speed, table_bytes, teachers_of, untaught
from recsys.training.run import is_finished, run_folder
from recsys.tuning.trials import TrialStore
from recsys_cython_ext.progress import Progress
from recsys_pipelines.preparation.prepared import Prepared

ALL_SECONDS = 10.0  # that measuring takes, of however many arms


def expected_cost(
    configs: Sequence[ExperimentConfig],
    seeds: int,
    runs: Path,
    prepared: Path,
    jobs: int,
    progress: Progress,
    prepare_progress: Progress,
) -> Cost:
    """Prepare data, draw settings, and measure some batches of every arm. Raises ConfigError as `run_comparison` does."""
    arms, _ = draw_candidates(list(map(untaught, configs)), prepared, runs, progress, prepare_progress)
    each = min(2.0, ALL_SECONDS / len(arms))
    speeds = []
    for number, arm in enumerate(arms, start=1):
        first = arm.candidates[0]
        speeds.append(measure_speed(first.config, Prepared.open(first.prepared), each))
        progress("measure", number, len(arms))
    return _cost(arms, speeds, seeds, runs, jobs, sum(map(teachers_of, configs)))


def cost_if_long(arms: Sequence[ArmCandidates], seeds: int, runs: Path, jobs: int) -> Cost | None:
    """Return what is to be expected by the speed of the first arm; None, without measuring, where there is little to do."""
    rows = 0
    for arm in arms:
        trials, missing = _missing(arm, seeds, runs)
        first = arm.candidates[0]
        of_epoch = Prepared.open(first.prepared).manifest.splits["train"].rows
        rows += (trials + missing) * first.config.training.epochs * of_epoch
    if rows < LONG_ROWS:
        return None
    first = arms[0].candidates[0]
    speed = measure_speed(first.config, Prepared.open(first.prepared))
    return _cost(arms, [speed] * len(arms), seeds, runs, jobs, 0)


def _cost(
    arms: Sequence[ArmCandidates],
    speeds: Sequence[Measured],
    seeds: int,
    runs: Path,
    jobs: int,
    teachers: int,
) -> Cost:
    """Add up the arms, whose speeds are known; teachers are taken to train as the first arm does."""
    counts = [_missing(arm, seeds, runs) for arm in arms]
    firsts = [arm.candidates[0] for arm in arms]
    sizes = [table_bytes(first.config, Prepared.open(first.prepared)) for first in firsts]
    of_one = [
        speed.seconds(first.config.training.epochs) for speed, first in zip(speeds, firsts, strict=True)
    ]
    seconds = sum(sum(count) * one for count, one in zip(counts, of_one, strict=True)) + teachers * of_one[0]
    kept = sum(missing * size for (_, missing), size in zip(counts, sizes, strict=True))
    return Cost(
        runs={
            "teachers": teachers,
            "validation trials": sum(trials for trials, _ in counts),
            "training runs": sum(missing for _, missing in counts),
        },
        seconds=seconds / jobs,
        memory=jobs * max(speed.memory for speed in speeds),
        disk=kept + (COPIES * jobs + teachers) * max(sizes),
        peak_table_bytes=max(sizes),
    )


def _missing(arm: ArmCandidates, seeds: int, runs: Path) -> tuple[int, int]:
    """Return how many trials and seeds of an arm are not there; which candidate will be best is not known before."""
    store = TrialStore(runs)
    records = [store.read(candidate.digest) for candidate in arm.candidates]
    trials = sum(record is None or record.end is None for record in records)
    missing = []
    for candidate in arm.candidates:
        prepared = Prepared.open(candidate.prepared)
        seeded = (candidate.config.replace({"training.seed": seed}) for seed in range(seeds))
        missing.append(sum(not is_finished(run_folder(config, prepared, runs)) for config in seeded))
    return (trials if arm.config.tuning.trials > 1 else 0), min(missing)
