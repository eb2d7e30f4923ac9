"""The report of small tables that learned from teachers: what they lose at most, what they weigh, and what they cost."""

from functools import lru_cache
from pathlib import Path

from recsys.comparison.experiments import Arm, Result
from recsys.comparison.judge import Judgement, Options, Power, judge
from recsys.comparison.predictions import Predictions
from recsys.compression.distillation import STUDENT, DistillationResult
from recsys.reports import comparison as comparison_report
from recsys.reports.bytes import bytes_sheets
from recsys.reports.comparison import differences_sheet, main_sheets, power_lines, verdicts
from recsys.reports.experiments import quality_picture
from recsys.reports.page import share, write_html
from recsys.reports.pictures.comparison import comparison_pictures
from recsys.reports.sheet import Row, Sheet
from recsys.training.run import PREDICTIONS
from recsys_tables.serving import artefact

EFFECT = 0.002  # a loss in AUC that "loses nothing" allows, unless the user says another


def summary(result: DistillationResult) -> str:
    """Say what the chosen student loses at most, against the full table and against it with the same teacher."""
    return " ".join(_paragraphs(result))


def compression_sheets(result: DistillationResult) -> list[Sheet]:
    """Return arms with their bytes, the steps with their time, and the codes; folded, the trials of students."""
    if result.compared is None:
        return [_steps_sheet(result), *_codes_sheets(result)]
    return [_arms_sheet(result), _steps_sheet(result), *_codes_sheets(result)]


def write_compression(result: DistillationResult, path: Path | str) -> None:
    """Render a result into a self-contained HTML file."""
    compared, taught = result.compared, against_taught(result)
    judged = None if compared is None else compared.judged
    judgements = [judgement for judgement in (judged, taught) if judgement is not None]
    write_html(
        path,
        "compression.html.j2",
        title=f"Small tables for {result.config.name}, within {result.budget}",
        answer=answer(result),
        picture=None if compared is None else quality_picture(compared),
        texts=_paragraphs(result),
        note="Bytes are all that must be resident in training: weights, the table optimiser's state, vocabularies, codes. "
        "Validation rows chose settings and the kind of tables; test rows chose nothing.",
        sheets=compression_sheets(result),
        pictures=[] if judged is None else comparison_pictures(judged),
        judged=judged,
        seeds=0 if judged is None else judged.comparison.arms[0].seeds,
        judged_summary="" if judged is None else comparison_report.summary(judged),
        power=[] if judged is None else power_lines(judged),
        verdicts=[line for judgement in judgements for line in verdicts(judgement)],
        details=detail_sheets(result),
    )


def detail_sheets(result: DistillationResult) -> list[Sheet]:
    """Return the tables behind the comparison; none where nothing was compared."""
    compared, taught = result.compared, against_taught(result)
    if compared is None or taught is None:
        return []
    return [
        *main_sheets(compared.judged),
        differences_sheet(taught.comparison, f"Differences from {taught.comparison.baseline}"),
        *_trials_sheets(compared),
        *bytes_sheets({arm.name: arm.bytes for arm in compared.arms}),
    ]


def detail_lines(result: DistillationResult) -> list[str]:
    """Return the sentences behind the answer: what the data can find, and the verdicts."""
    if result.compared is None:
        return []
    return [*power_lines(result.compared.judged), *verdicts(result.compared.judged), summary(result)]


def against_taught(result: DistillationResult) -> Judgement | None:
    """Judge the student against the full table with the same teacher, on test; None where nothing was trained."""
    if result.compared is None:
        return None
    overall, power = result.compared.overall, result.compared.judged.power
    arms = tuple(
        (arm.name, tuple(run.verified(PREDICTIONS) for run in arm.runs))
        for arm in result.compared.arms[1 : STUDENT + 1]
    )
    return _judged(arms, Options(replicates=overall.replicates, level=overall.level, effect=power[0].effect))


@lru_cache(maxsize=1)  # a bootstrap of finished runs, for the page, the terminal and the summary
def _judged(arms: tuple[tuple[str, tuple[Path, ...]], ...], options: Options) -> Judgement:
    return judge({name: [Predictions(path) for path in paths] for name, paths in arms}, options)


def loss_at_most(power: Power) -> float | None:
    """Return what an arm loses in AUC at most: the other end of its interval; None where there is none."""
    return None if power.interval is None else max(0.0, -power.interval[0])


def _paragraphs(result: DistillationResult) -> list[str]:
    return [_loss_sentence(result), _choice_sentence(result), _cost_sentence(result)]


def answer(result: DistillationResult) -> str:
    """Return the result in one sentence: `smallest_sentence`, where something was compared."""
    if result.compared is not None:
        return smallest_sentence(result.compared)
    return " ".join(_paragraphs(result)[:2])


def smallest_sentence(compared: Result) -> str:
    """Name the smallest arm that loses at most `EFFECT` against the baseline, or say that none does."""
    power = {item.arm: item for item in compared.judged.power}
    effect = next(iter(power.values())).effect or EFFECT
    losses = {name: loss_at_most(item) for name, item in power.items()}
    size = {arm.name: arm.bytes["total"] for arm in compared.arms}
    small = [name for name, loss in losses.items() if loss is not None and loss <= effect]
    smaller = [name for name in small if size[name] < size[compared.overall.baseline]]
    if not smaller:
        return (
            f"No smaller arm is shown to lose at most {effect:g} in AUC against {compared.overall.baseline}."
        )
    name = min(smaller, key=size.__getitem__)
    share_of_full = size[name] / compared.arms[0].bytes["full_table"]
    return (
        f"The smallest arm that loses at most {effect:g} in AUC against {compared.overall.baseline} is {name}: "
        f"{size[name]:,} bytes, {share(share_of_full)} of the full table."
    )


def _loss_sentence(result: DistillationResult) -> str:
    compared, taught = result.compared, against_taught(result)
    if compared is None or taught is None:
        return "No seeds were trained: whether these tables are worse than the full ones is not known."
    student = result.student
    size = (
        f"{result.chosen.capitalize()} tables within {result.budget} take {student.bytes['total']:,} bytes, "
        f"{share(student.bytes['total'] / result.full_bytes)} of the full table's {result.full_bytes:,}"
    )
    against_full = _at_most(compared.judged, student)
    against_same = _at_most(taught, student)
    sentence = (
        f"{size}: against the full table they lose {against_full} in AUC, and {against_same} against the full table with "
        "the same teacher."
    )
    powers = [next(p for p in judged.power if p.arm == student.name) for judged in (compared.judged, taught)]
    losses = [loss_at_most(power) for power in powers]
    effect = powers[0].effect or EFFECT
    if all(loss is not None and loss <= effect for loss in losses):
        return f"{sentence} So they lose nothing that matters ({effect:g})."
    return f"{sentence} So it is not shown that they lose nothing ({effect:g})."


def _at_most(judged: Judgement, arm: Arm) -> str:
    loss = loss_at_most(next(power for power in judged.power if power.arm == arm.name))
    return "no one knows how much" if loss is None else f"at most {loss:.4f}"


def _choice_sentence(result: DistillationResult) -> str:
    monitor = result.config.training.monitor
    scores = {kind: abs(score) for kind, score in result.scores.items()}
    left_out = "".join(f" Left out were {kind} tables: {why}." for kind, why in result.left_out.items())
    if len(scores) == 1:
        return f"On validation the {monitor} of {result.chosen} tables was {scores[result.chosen]:.5f}.{left_out}"
    others = ", ".join(f"{scores[kind]:.5f} of {kind}" for kind in scores if kind != result.chosen)
    return f"Validation chose {result.chosen} tables: {monitor} {scores[result.chosen]:.5f}, and {others}.{left_out}"


def _cost_sentence(result: DistillationResult) -> str:
    took = f"It took {sum(result.seconds.values()):,.0f} s, without what was there."
    if not result.teachers:
        return f"What the teacher predicts was there already. {took}"
    teachers = result.teachers[0].metrics["bytes"]["total"]
    return (
        f"While they are made, {len(result.teachers)} teachers train tables of {teachers:,} bytes each, "
        f"{share(teachers / result.full_bytes)} of the full table's: this makes tables small to keep and to serve, and "
        f"takes what training full ones takes. {took}"
    )


def _arms_sheet(result: DistillationResult) -> Sheet:
    compared = result.compared
    assert compared is not None
    power = {item.arm: item for item in compared.judged.power}
    rows: list[Row] = []
    for arm, judged in zip(compared.arms, compared.overall.arms, strict=True):
        loss = loss_at_most(power[arm.name]) if arm.name in power else None
        served = arm.bytes["serving"]
        if arm is result.student and result.artefact is not None:
            served = artefact.open(result.artefact, verify=False).bytes.serving
        rows.append(
            (
                arm.name,
                f"{arm.bytes['total']:,}",
                share(arm.bytes["total"] / result.full_bytes),
                f"{served:,}",
                f"{judged.auc:.4f}",
                "baseline" if arm.name not in power else "–" if loss is None else f"{loss:.4f}",
            )
        )
    return Sheet(
        "Arms",
        ("arm", "bytes in training", "of full", "bytes served", "AUC", "loss against full, at most"),
        rows,
        "Loss at most: the upper end of the interval of what the arm loses in AUC on test, of all arms at once. Bytes "
        "served: of the student, its artefact's; of the others, as they were trained.",
    )


def _steps_sheet(result: DistillationResult) -> Sheet:
    return Sheet(
        "Time of each step",
        ("step", "seconds"),
        [(step, f"{seconds:,.1f}") for step, seconds in result.seconds.items()],
        "What was there already took none.",
    )


def _codes_sheets(result: DistillationResult) -> list[Sheet]:
    if not result.codes:
        return []
    rows = [
        (
            str(codes.min_count),
            f"{codes.num_ids:,}",
            f"{codes.num_rows:,}",
            f"{codes.num_rows - codes.used_rows:,}",
            share(codes.shared_rows / codes.num_rows),
            f"{codes.bytes:,}",
            share(codes.bytes / result.budget_bytes),
        )
        for codes in result.codes
    ]
    return [
        Sheet(
            "Codes that were tried",
            ("minimum count", "ids", "rows", "dead", "of several features", "bytes", "of the budget"),
            rows,
            "Ids with at least so many impressions have codes, and nearly all others read one row. Dead rows are read by "
            "no id that has codes. Where a budget is not used up, the tables have `compression.students.max_rows`, or "
            "a row an id.",
        )
    ]


def _trials_sheets(compared: Result) -> list[Sheet]:
    monitored = ("auc", "logloss")
    return [
        Sheet(
            f"Trials of {arm.name}",
            ("settings", *(f"validation {metric}" for metric in monitored)),
            [
                (_settings(trial["settings"]), *(_metric(trial.get(metric)) for metric in monitored))
                for trial in arm.trials
            ],
            folded=True,
        )
        for arm in compared.arms
        if arm.trials
    ]


def _settings(settings: dict[str, object]) -> str:
    named = {key: Path(str(v)).name if key == "tables.codes" else v for key, v in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in named.items()) or "the file's own"


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"
