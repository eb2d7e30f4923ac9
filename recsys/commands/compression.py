"""Command that makes the tables of an experiment small: compress."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recsys.commands.options import (
    PREPARED,
    RUNS,
    AddressOption,
    ConfigArgument,
    DataOption,
    DetailsOption,
    DryRunOption,
    JobsOption,
    JsonOption,
    PreparedOption,
    ReportOption,
    RunsOption,
    SeedsOption,
)
from recsys.console import announce, app, bars, print_cost, print_json, print_place, print_result, ready
from recsys_cython_ext.extras import require

# Preparing a log takes minutes: all are there before it begins.
TRAINING = ("torch", "torchrec", "fbgemm_gpu", "matplotlib")

Dtype = Literal["fp32", "fp16", "fp8", "int8", "int4"]
IntoOption = Annotated[
    Literal["auto", "coded", "clustered", "unified", "compact"],
    typer.Option(
        "--into",
        help="coded: rows learned from teachers; clustered: rows that begin as centroids of a teacher's; "
        "unified: hashed rows, with teachers; auto: the best of these on validation; compact: a learner's masks, "
        "and evolution over rows and widths",
    ),
]
ExportedOption = Annotated[
    Dtype | None,
    typer.Option(help="of the exported tables; default: as students are trained, and fp32 of compact ones"),
]
SeedsOrNoneOption = Annotated[
    int, typer.Option("--seeds", min=0, help="training seeds per arm of the comparison; 0: no comparison")
]
GenomesOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=1,
        help="--into compact: genomes at once, as Ray tasks; 1: in this process, without Ray",
    ),
]


@app.command(rich_help_panel="Tables")
def compress(
    config: ConfigArgument,
    budget: Annotated[
        str, typer.Option(help="all resident bytes, such as 10% of the full table's, or 64MB")
    ] = "10%",
    into: IntoOption = "auto",
    seeds: SeedsOrNoneOption = 5,
    effect: Annotated[
        float, typer.Option(help="loss in AUC that would matter: not worse than it, or undecided")
    ] = 0.002,
    dtype: ExportedOption = None,
    dry_run: DryRunOption = False,
    workers: GenomesOption = 1,
    address: AddressOption = None,
    data: DataOption = None,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    jobs: JobsOption = None,
    report: ReportOption = Path("compress-report.html"),
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the tables of a config small: learn what to keep, train, compare and export."""
    from recsys.config import load_experiment

    require(*TRAINING)
    experiment = load_experiment(config, data)
    options = {"seeds": seeds, "effect": effect}
    with bars(runs, prepared) as show:
        prepared_set = ready(experiment, prepared, None, show)
        places = prepared_set, (runs, prepared)
        if dry_run:
            cost = _cost(experiment, into, prepared_set, seeds, jobs)
        elif into == "compact":
            evaluator = _evaluator(workers, address)
            result: Any = _compacted(
                experiment,
                budget,
                *places,
                evaluator,
                {**options, "jobs": jobs, "dtype": dtype or "fp32"},
                show,
            )
        else:
            if address is None:
                _announce(experiment, into, prepared_set, seeds, jobs)
            with _pool(experiment, jobs, address) as pool:
                result = _distilled(
                    experiment, budget, into, *places, {**options, "pool": pool, "dtype": dtype}, show
                )
    if dry_run:
        return print_cost(cost, as_json)
    _show(result, into, report, details, as_json)


@app.command(rich_help_panel="Tables")
def demo(
    seeds: SeedsOption = 3,
    prepared: PreparedOption = PREPARED,
    runs: RunsOption = RUNS,
    report: ReportOption = Path("demo-report.html"),
    jobs: JobsOption = None,
    details: DetailsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the tables of a generated log small, whose best possible AUC is known, and compare them with their rivals."""
    from importlib.resources import as_file, files

    from recsys.config import load_experiment

    require(*TRAINING)
    with as_file(files("recsys_configs") / "generated") as folder:
        experiment = load_experiment(folder / "demo.yaml")
        rivals = [load_experiment(folder / f"{name}.yaml") for name in ("hash", "unified")]
    rivals = [
        rival.replace({"data": experiment.data.model_dump(mode="json"), "tables.budget": "10%"})
        for rival in rivals
    ]
    with bars(runs, prepared) as show:
        places = ready(experiment, prepared, None, show), (runs, prepared)
        with _pool(experiment, jobs, None) as pool:
            options = {"seeds": seeds, "effect": 0.002, "rivals": rivals, "pool": pool}
            result = _distilled(experiment, "10%", "auto", *places, options, show)
    _show(result, "auto", report, details, as_json)


def _show(result: Any, into: str, report: Path, details: bool, as_json: bool) -> None:
    """Write the report of small tables and print it; its last line is the answer."""
    from recsys.reports import compression, distillation

    reports: Any = compression if into == "compact" else distillation
    reports.write_compression(result, report)
    if as_json:
        return print_json({**result.to_dict(), "summary": reports.summary(result), "report": str(report)})
    print_place("report", report.resolve())
    print_place("small experiment", result.experiment)
    if result.artefact is not None:
        print_place("artefact", result.artefact)
    sheets = [*reports.compression_sheets(result), *reports.detail_sheets(result)]
    print_result(reports.answer(result), sheets, details, reports.detail_lines(result))


def _compacted(
    experiment: Any, budget: str, prepared: Any, roots: Any, evaluator: Any, options: Any, show: Any
) -> Any:
    from recsys.compression.search import run_compression
    from recsys.training.loop import Watch

    watch = Watch(progress=lambda stage, *rest: show(f"learner, {stage}", *rest))
    return run_compression(
        experiment, budget, prepared, roots, evaluator, **options, watch=watch, progress=show
    )


def _distilled(
    experiment: Any, budget: str, into: str, prepared: Any, roots: Any, options: Any, show: Any
) -> Any:
    from recsys.compression.distillation import run_distillation
    from recsys.compression.kinds import KINDS

    return run_distillation(experiment, budget, KINDS[into], prepared, roots, **options, progress=show)


def _pool(experiment: Any, jobs: int | None, address: str | None) -> Any:
    """Return what trains the runs: processes of this machine, or tasks on Ray."""
    if address is None:
        from recsys.comparison.pool import training_pool

        return training_pool([experiment], jobs)
    try:
        from recsys.comparison.pool_on_ray import ray_pool
    except ImportError:
        raise ValueError(
            "recsys compress --address needs Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    return ray_pool(jobs or 1, address)


def _cost(experiment: Any, into: str, prepared: Any, seeds: int, jobs: int | None) -> Any:
    from recsys.compression.cost import expected_cost
    from recsys.compression.kinds import KINDS

    if into == "compact":
        raise ValueError("--dry-run knows what students of teachers take, not --into compact: leave one out")
    return expected_cost(experiment, KINDS[into], prepared, seeds, _at_once(experiment, jobs))


def _announce(experiment: Any, into: str, prepared: Any, seeds: int, jobs: int | None) -> None:
    """Say what is to be expected, where it is long."""
    from recsys.compression.cost import expected_cost, is_long
    from recsys.compression.kinds import KINDS
    from recsys.compression.stages import require_full_tables

    require_full_tables(experiment)
    if is_long(experiment, KINDS[into], prepared, seeds):
        cost = expected_cost(experiment, KINDS[into], prepared, seeds, _at_once(experiment, jobs))
        announce(f"expect {cost.sentence}; what is there already takes none")


def _at_once(experiment: Any, jobs: int | None) -> int:
    from recsys.comparison.pool import jobs_at_once

    return jobs_at_once([experiment], jobs)


def _evaluator(workers: int, address: str | None) -> Any:
    """Return what evaluates genomes: this process, or tasks on Ray."""
    if workers == 1 and address is None:
        from recsys.compression.supernet import evaluator

        return evaluator
    try:
        from recsys.compression.supernet_on_ray import ray_evaluator
    except ImportError:
        raise ValueError(
            "recsys compress with several workers needs Ray: pip install 'recsys-embedding-tables[ray]'"
        ) from None
    return partial(ray_evaluator, workers=workers, address=address)
