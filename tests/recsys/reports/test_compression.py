"""What a search for small tables shows, of one made by hand: numbers that can be counted, and pictures of any size."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.comparison.experiments import Arm, Result
from recsys.comparison.judge import Options, judge
from recsys.comparison.predictions import Predictions
from recsys.compression.evolution import Outcome, Scored
from recsys.compression.search import CompressionResult
from recsys.compression.space import Genome, GenomeSpace
from recsys.config import ExperimentConfig
from recsys.evaluation.metrics import auc
from recsys.reports.compression import (
    _moral,
    against_rivals,
    compression_sheets,
    detail_sheets,
    impressions,
    mean_width,
    summary,
    write_compression,
)
from recsys.reports.pictures.compression import evaluated, fields_picture, progress_picture, trade_picture
from recsys.reports.sheet import Sheet
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import UNKNOWN_CODE
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

from ..conftest import Configure

D = 8
BEST = Genome((8, 4, 0), (20, 10, 0))  # of user_id, item_id and tags


def space_of(sizes: dict[str, int]) -> GenomeSpace:
    """Scores fall with codes: the most frequent ids are best."""
    scores = {name: 1 / np.arange(1, 3 + n) for name, n in sizes.items()}
    return GenomeSpace(tuple(sizes), {name: 2 + n for name, n in sizes.items()}, scores, embedding_dim=D)


def outcome(space: GenomeSpace, *found: tuple[Genome, float]) -> Outcome:
    return Outcome(tuple(Scored(genome, quality, space.bytes(genome)) for genome, quality in found))


def search_of(config: ExperimentConfig, space: GenomeSpace, run: Run, best: Genome) -> CompressionResult:
    """Make a result: the evolution's best, its third of four, has 0.75; random has 0.6, uniform 0.74, all kept 0.8."""
    small, fewer, middle = (space.uniform(4, s) for s in (0.1, 0.3, 0.4))
    everything, full = space.everything(), 2 * space.bytes(space.everything())
    searches = {
        "evolution": outcome(space, (small, 0.7), (fewer, 0.72), (best, 0.75), (middle, 0.74)),
        "random": outcome(space, (small, 0.7), (space.uniform(4, 0.2), 0.5)),
        "uniform": outcome(space, (small, 0.7), (middle, 0.74)),
    }
    front = outcome(space, (everything, 0.8), (fewer, 0.72))
    return CompressionResult(
        config, "25%", full // 4, full, space, run, 0.8, searches, front, {}, None, None, run.path
    )


@pytest.fixture(scope="module")
def found(configure: Configure, prepared: Prepared) -> CompressionResult:
    config = configure()
    sizes = {f.name: len(f.ids) for f in prepared.features().categorical}  # type: ignore[union-attr]
    run = Run(prepared.path, config, {"prepared": str(prepared.path)})
    return search_of(config, space_of(sizes), run, BEST)


@pytest.fixture(scope="module")
def trained(found: CompressionResult, tmp_path_factory: pytest.TempPathFactory) -> CompressionResult:
    """With two seeds an arm: evolution is the full table with a little noise, uniform the same, random far worse."""
    folder, random = tmp_path_factory.mktemp("arms"), np.random.default_rng(0)
    n = 3000
    logit = random.normal(0, 1.5, n)
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    arms = []
    for name, noise in (
        ("small", 0.0),
        ("small-evolution", 0.02),
        ("small-random", 3.0),
        ("small-uniform", 0.02),
    ):
        runs = []
        for seed in range(2):
            path = folder / name / f"seed-{seed}"
            path.mkdir(parents=True)
            shown = 1 / (1 + np.exp(-logit - random.normal(0, 0.05 + noise, n)))
            table = {
                "row_id": np.arange(n),
                "label": label,
                "prediction": shown,
                "user_id": np.arange(n) % 500,
            }
            pq.write_table(pa.table(table), path / "predictions.parquet")
            runs.append(Run(path, found.config, {}))
        arms.append(Arm(name, None, found.config, {}, [], runs))
    files = {arm.name: [Predictions(run.path / "predictions.parquet") for run in arm.runs] for arm in arms}
    judged = judge(files, Options(replicates=100, effect=0.05))
    return replace(found, compared=Result(arms, judged, {}, {}, arms[0].name))


def all_sheets(found: CompressionResult) -> list[Sheet]:
    return [*compression_sheets(found), *detail_sheets(found)]


def sheet(found: CompressionResult, title: str) -> Sheet:
    (one,) = [one for one in all_sheets(found) if one.title.startswith(title)]
    return one


def test_sentences_say_what_is_kept_and_what_it_costs(found: CompressionResult) -> None:
    size, full = found.space.bytes(BEST), found.full_bytes
    text = summary(found)
    assert f"Within 25%, {full // 4:,} bytes, evolution keeps 30 of 112 ids (26.79%)" in text
    assert (
        f"a mean width of 6.6 of 8: {size:,} bytes, {size / full:.2%} of the full table's {full:,}." in text
    )
    assert mean_width(BEST) == pytest.approx((8 * 22 + 4 * 12) / 34)  # with the two reserved rows of each
    assert "It gives up tags." in text
    assert "AUC is 0.75000, and 0.80000 with all that the learner keeps: a difference of -0.05000." in text
    assert "evolution 0.75000 (4), random search 0.70000 (2), uniform shrink 0.74000 (2)" in text
    assert "Evolution is ahead of both there" in text
    assert "Nothing was trained" in text


def test_a_search_that_did_not_pay_says_so(found: CompressionResult) -> None:
    space = found.space
    rivals = {
        "random": outcome(space, (BEST, 0.75)),
        "uniform": outcome(space, (space.uniform(8, 0.1), 0.76)),
    }
    text = summary(replace(found, outcomes=found.outcomes | rivals))
    assert (
        "Evolution did not pay on validation: random search finds the same tables and uniform shrink is better."
        in text
    )
    tied = {"uniform": outcome(space, (space.uniform(8, 0.1), 0.75))}
    text = summary(replace(found, outcomes=found.outcomes | tied))
    assert "Evolution did not pay on validation: uniform shrink is as good." in text
    assert "ahead" not in text


def test_searches_have_their_best_and_when_they_found_it(found: CompressionResult) -> None:
    everything = found.space.bytes(found.space.everything())
    rows = sheet(found, "Searches").rows
    assert rows[0][:4] == ("all that the learner keeps", "0.80000", f"{everything:,}", "50.00%")
    assert rows[1][:2] == ("evolution", "0.75000")
    assert [row[-2:] for row in rows] == [("–", "–"), ("4", "3"), ("2", "1"), ("2", "2")]


def test_fields_add_up_and_impressions_are_counted(found: CompressionResult, prepared: Prepared) -> None:
    rows = sheet(found, "Fields").rows
    assert [row[:4] for row in rows] == [
        ("user_id", "60", "20", "33.33%"),
        ("item_id", "40", "10", "25.00%"),
        ("tags", "12", "0", "0.00%"),
    ]
    assert [row[5] for row in rows] == ["8", "4", "given up"]
    assert sum(int(row[6].replace(",", "")) for row in rows) == found.space.bytes(BEST)
    validation = Rows.load(prepared.path, "validation")
    for name, kept in zip(found.space.features, BEST.rows, strict=True):
        known = [code for code in validation.ids_of(name).tolist() if code >= 2]
        share = sum(code < 2 + kept for code in known) / len(known)
        assert impressions(found)[name] == pytest.approx(share)
    assert impressions(found)["tags"] == 0
    assert 0.2 < impressions(found)["user_id"] < 0.6  # type: ignore[operator]


def test_unknown_ids_are_no_impressions(configure: Configure, tmp_path: Path) -> None:
    """They have the row that pruned ids share, and are not counted either way."""
    config = configure({"features.min_count": 80})
    ready = prepare(config.data, config.features, tmp_path)
    sizes = {f.name: len(f.ids) for f in ready.features().categorical}  # type: ignore[union-attr]
    assert (Rows.load(ready.path, "validation").ids_of("user_id") == UNKNOWN_CODE).any()
    run = Run(ready.path, config, {"prepared": str(ready.path)})
    pruned = Genome((8,) * 3, (0,) * 3)
    assert set(impressions(search_of(config, space_of(sizes), run, pruned)).values()) == {0.0}


def test_everything_evaluated_is_there_once_and_the_front_is_of_all(found: CompressionResult) -> None:
    every = evaluated(found)
    assert len(every.evaluated) == 6  # small, fewer, BEST, middle, 0.2 of random, everything
    best = sheet(found, "Best genomes")
    assert [row[1] for row in best.rows] == ["0.75000", "0.74000", "0.72000", "0.70000", "0.50000"]
    assert best.rows[1][-1] == "evolution, uniform shrink"
    assert best.rows[2][-1] == "evolution, front"
    front = sheet(found, "Pareto front")
    assert front.rows[-1][1:3] == ("0.80000", f"{found.space.bytes(found.space.everything()):,}")
    sizes = [int(row[2].replace(",", "")) for row in front.rows]
    assert sizes == sorted(sizes)
    for one in every.evaluated:
        assert any(f.bytes <= one.bytes and f.quality >= one.quality for f in every.front)
    assert best.folded
    assert front.folded


def test_trained_arms_are_judged_against_full_and_against_each_other(trained: CompressionResult) -> None:
    assert trained.compared is not None
    means = {}
    for arm in trained.compared.arms:
        tables = [run.predictions() for run in arm.runs]
        means[arm.name] = np.mean([auc(t["label"].to_numpy(), t["prediction"].to_numpy()) for t in tables])
    text = summary(trained)
    change = means["small-evolution"] - means["small"]
    assert (
        f"Trained with 2 seeds, on test: small-evolution is not told apart from small in AUC: {change:+.4f}"
        in text
    )
    assert "Against small it is not worse than −0.05: the interval" in text
    for name, said in (("random", "worse than evolution"), ("uniform", "not told apart from evolution")):
        change = means[f"small-{name}"] - means["small-evolution"]
        assert f"is {said} there ({change:+.4f}, 95% interval" in text
    assert text.endswith("So it is not shown that evolution pays over uniform shrink.")
    assert "evolution paid" not in text, "one conclusion, from both rivals"
    assert "equal" not in text
    titles = [one.title for one in all_sheets(trained)]
    assert titles[2:6] == [
        "Metrics of the arms",
        "Differences from small",
        "Probability of being the best arm",
        "Differences from small-evolution",
    ]
    assert against_rivals(trained) is against_rivals(trained), "a bootstrap is done once"


def test_a_better_rival_is_told(trained: CompressionResult) -> None:
    """As evolution and random search with each other's tables."""
    assert trained.compared is not None
    full, evolution, random, uniform = trained.compared.arms
    arms = [full, replace(evolution, runs=random.runs), replace(random, runs=evolution.runs), uniform]
    files = {arm.name: [Predictions.of(run).path for run in arm.runs] for arm in arms}
    judged = judge(
        {name: [Predictions(p) for p in paths] for name, paths in files.items()}, Options(replicates=100)
    )
    text = summary(replace(trained, compared=Result(arms, judged, {}, {}, arms[0].name)))
    assert "small-evolution is worse than small in AUC" in text
    assert "Random search is better than evolution there" in text
    assert text.endswith("So evolution did not pay: random search and uniform shrink did better.")


@pytest.mark.parametrize(
    ("verdicts", "moral"),
    [
        (("worse", "worse"), "So evolution paid."),
        (("worse", "undecided"), "So it is not shown that evolution pays over uniform."),
        (("undecided", "undecided"), "So it is not shown that evolution pays over random and uniform."),
        (("worse", "better"), "So evolution did not pay: uniform did better."),
        (("undecided", "better"), "So evolution did not pay: uniform did better."),
    ],
)
def test_rivals_end_in_one_conclusion(verdicts: Any, moral: str) -> None:
    assert _moral(dict(zip(("random", "uniform"), verdicts, strict=True))) == moral


def test_the_page_stands_alone(found: CompressionResult, trained: CompressionResult, tmp_path: Path) -> None:
    write_compression(found, tmp_path / "out" / "plain.html")
    plain = (tmp_path / "out" / "plain.html").read_text()
    assert plain.count("data:image/png;base64,") == 3
    assert "The verdict" not in plain
    write_compression(trained, tmp_path / "trained.html")
    html = (tmp_path / "trained.html").read_text()
    assert html.count("data:image/png;base64,") > 3
    assert html.count("<li>") >= 3 + 3 + 2  # power and verdict of each arm, and both rivals against evolution
    assert "The verdict, arm by arm" in html
    for page in (plain, html):
        assert "http" not in page
        assert "Small tables for small, within 25%" in page
        assert page.index("Searches") < page.index("Pareto front</summary>")
    json.dumps(found.to_dict())


@pytest.mark.parametrize("number", [1, 40])
def test_pictures_of_few_and_of_many_fields(configure: Configure, number: int) -> None:
    random = np.random.default_rng(number)
    names = [f"a_rather_long_name_of_a_field_{i}" for i in range(number)]
    space = space_of({name: int(n) for name, n in zip(names, random.integers(0, 10**4, number), strict=True)})
    config = configure()
    made: Any = search_of(config, space, Run(Path(), config, {}), space.uniform(8, 0.5))
    seen = {name: None if i % 5 == 4 else i / number for i, name in enumerate(names)}
    pictures = [fields_picture(made, seen), trade_picture(made), progress_picture(made)]
    for title, picture, note in pictures:
        assert title
        assert note
        width, height = np.frombuffer(base64.b64decode(picture)[16:24], ">u4")
        assert 200 <= height <= 1600
        assert 900 <= width <= 1300
