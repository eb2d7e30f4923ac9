"""Genomes and what they cost: the bytes are those of the real compact tables, and a repaired genome fits."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.compression.compact import space_of as experiment_space
from recsys.compression.space import Genome, GenomeSpace, Learned
from recsys.planning import plan_of
from recsys_cython_ext.vocabulary import FIRST_CODE
from recsys_pipelines.encoding.vocabulary import ExactVocabulary, vocabulary_bytes
from recsys_pipelines.features.categorical import Categorical
from recsys_pipelines.preparation.prepare import prepare
from recsys_tables import Compact
from recsys_tables.bytes import OptimizerName, resident_bytes
from recsys_tables.planning.plan import BudgetError
from recsys_tables.remap import Remap

D = 16
SCORES = {
    "user": np.array([9, 9, 0.5, 0.9, -1, 0.1, 0.9, 0, 0.3, 0.7]),
    "item": np.array([9, 9, 0.2, 0.8, 0.6]),
    "dead": np.array([9, 9, -1, 0, -2.0]),
}


def space_of(scores: dict[str, np.ndarray] = SCORES, **given: Any) -> GenomeSpace:
    sizes = {name: len(score) for name, score in scores.items()}
    return GenomeSpace(tuple(scores), sizes, scores, **{"embedding_dim": D, **given})


@st.composite
def spaces(draw: Any) -> GenomeSpace:
    """Fields of up to 700 codes (so several blocks of a remap), tied and negative scores, one of them perhaps whole."""
    sizes = draw(st.lists(st.integers(FIRST_CODE, 700), min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    scores = {f"f{i}": random.integers(-3, 9, n) / 8 for i, n in enumerate(sizes)}
    widths = {name: draw(st.sampled_from([0, 4, 8, 16])) for name in scores} | {"f0": D}
    whole = {"f0": 8 * sizes[0]} if draw(st.booleans()) else {}
    return space_of(
        scores,
        widths=widths,
        optimizer=draw(st.sampled_from(get_args(OptimizerName))),
        whole=whole,
        statistics=draw(st.integers(0, 2000)),
    )


@st.composite
def genomes(draw: Any, space: GenomeSpace) -> Genome:
    """Any genome of a space that keeps its first field."""
    widths = [draw(st.sampled_from(choices)) for choices in space.width_choices]
    widths[0] = draw(st.sampled_from(space.width_choices[0][1:]))
    rows = [
        draw(st.integers(choices[-1], choices[0])) if width else 0
        for width, choices in zip(widths, space.row_choices, strict=True)
    ]
    return Genome(tuple(widths), tuple(rows))


def compact_bytes(space: GenomeSpace, genome: Genome) -> int:
    """As a plan counts the compact model: real tables and remaps of every code, real vocabularies of the kept ids."""
    schemes, vocabulary = [], 0
    for i, name in enumerate(space.features):
        num_ids = space.num_codes[name] - FIRST_CODE if name in space.whole else genome.rows[i]
        keep = np.ones(FIRST_CODE + num_ids, np.bool_)
        schemes.append(Compact(name, Remap.of(keep), genome.widths[i], space.embedding_dim))
        ids = np.arange(num_ids)
        fitted = Categorical(
            name, "vocabulary", False, "sum", full_codes=700, vocabulary=ExactVocabulary(ids)
        )
        vocabulary += space.whole.get(name, fitted.vocabulary_bytes)
    return resident_bytes(schemes, vocabulary, space.optimizer, space.statistics).total


@given(st.data())
def test_bytes_are_those_of_the_compact_tables(data: Any):
    space = data.draw(spaces())
    genome = data.draw(genomes(space))
    assert space.bytes(genome) == compact_bytes(space, genome)


def test_every_column_of_every_kept_row_is_counted_and_nothing_beside():
    rows, width = 5, 12
    genome = Genome((width, 0, 0), (rows, 0, 0))
    others = 2 * (
        4 * 4 + 4 + 4 + 40
    )  # one row of width 4 and its state, an empty vocabulary, a block of a remap
    vocabulary = 8 * rows + 4 * (rows * 10 // 7 + 1)
    assert space_of().bytes(genome) == (rows + 2) * (4 * width + 4) + vocabulary + 40 + others


def test_rows_of_fp16_and_vocabularies_of_fingerprints_are_counted_as_such():
    rows, width = 5, 12
    genome = Genome((width, 0, 0), (rows, 0, 0))
    others = 2 * (2 * 4 + 4 + 40 + vocabulary_bytes(0, "fingerprint"))
    expected = (rows + 2) * (2 * width + 4) + vocabulary_bytes(rows, "fingerprint") + 40 + others
    assert dataclasses.replace(space_of(), precision="fp16", form="fingerprint").bytes(genome) == expected


@given(st.data())
def test_a_repaired_genome_is_valid_fits_and_only_lost(data: Any):
    space = data.draw(spaces())
    genome = data.draw(genomes(space))
    budget = data.draw(st.integers(space.least_bytes, space.bytes(space.everything()) + 100))
    fitted = space.fit(genome, budget)
    assert space.bytes(fitted) <= budget  # and so it is one of the space
    assert all(a <= b for a, b in zip(fitted.widths + fitted.rows, genome.widths + genome.rows, strict=True))
    assert space.fit(fitted, budget) == fitted
    if space.bytes(genome) <= budget:
        assert fitted == genome
    if fitted.widths != genome.widths:  # columns go when no row can
        assert all(
            n == 0 for n, name in zip(fitted.rows, space.features, strict=True) if name not in space.whole
        )


@pytest.mark.parametrize("rows", [253, 254, 255, 256])
def test_a_block_of_a_remap_is_counted_when_it_begins(rows: int):
    space = space_of({"a": np.ones(2 + 300)})
    genome = Genome((4,), (rows,))
    assert space.bytes(genome) == compact_bytes(space, genome)


def test_a_repair_takes_from_the_largest_field_and_no_more_than_it_must():
    scores = {"large": np.ones(2 + 1000), "small": np.ones(2 + 10)}
    space = space_of(scores)
    genome = space.everything()
    for budget in range(space.bytes(genome) - 7080, space.bytes(genome) - 7000):
        fitted = space.fit(genome, budget)
        assert fitted.rows[1] == 10
        assert fitted.rows[0] > 500
        assert space.bytes(Genome(fitted.widths, (fitted.rows[0] + 1, 10))) > budget


def test_columns_go_four_at_a_time_once_no_row_is_left():
    space = space_of()
    budget = space.bytes(Genome((16, 12, 12), (0, 0, 0)))
    assert space.fit(space.everything(), budget) == Genome((12, 12, 16), (0, 0, 0))


@given(st.data())
def test_one_width_and_one_cut_on_score_just_meet_the_budget(data: Any):
    space = data.draw(spaces())
    width = data.draw(st.sampled_from([4, 8, 16]))
    budget = data.draw(st.integers(space.least_bytes, space.bytes(space.everything())))
    genome = space.by_score(width, budget)
    if genome.widths != tuple(min(width, choices[-1]) for choices in space.width_choices):
        return  # not even the reserved rows are that wide
    keep = space.keep(genome)
    kept, dropped = [], []
    for name, widest in zip(space.features, space.width_choices, strict=True):
        if name in space.whole or widest[-1] == 0:
            continue
        ids = np.arange(len(keep[name])) >= FIRST_CODE
        kept += list(space.scores[name][keep[name] & ids])
        dropped += list(space.scores[name][~keep[name] & ids & (space.scores[name] > 0)])
    if kept and dropped:
        assert min(kept) >= max(dropped)
    if dropped:  # the next id, wherever it is, would not fit
        more = [
            Genome(genome.widths, (*genome.rows[:i], rows + 1, *genome.rows[i + 1 :]))
            for i, rows in enumerate(genome.rows)
            if genome.widths[i] and rows < space.row_choices[i][0]
        ]
        assert max(space.bytes(one) for one in more) > budget


def test_by_score_keeps_the_best_ids_of_all_fields_and_of_equals_the_frequent():
    space = space_of()
    least, most = space.bytes(Genome((8, 8, 8), (0, 0, 0))), space.bytes(space.uniform(8, 1.0))
    rows = [space.by_score(8, budget).rows for budget in range(least, most + 1)]
    seen = list(dict.fromkeys(rows))
    #   scores in order: user 0.9, user 0.9, item 0.8, user 0.7, item 0.6, user 0.5, user 0.3, item 0.2, user 0.1
    path = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (4, 2), (5, 2), (5, 3), (6, 3)]
    assert [(user, item) for user, item, _ in seen] == path
    assert space.keep(Genome((8, 8, 8), (1, 0, 0)))["user"].nonzero()[0].tolist() == [0, 1, 3]


def test_uniform_shrinks_every_field_alike_and_its_share_is_the_largest_that_fits():
    scores = {"a": np.ones(2 + 1000), "b": np.ones(2 + 100)}
    space = space_of(scores, widths={"a": 16, "b": 4})
    assert space.uniform(8, 0.25) == Genome((8, 4), (250, 25))
    assert space.uniform(16, 1.0) == space.everything() == Genome((16, 4), (1000, 100))
    budget = 20_000
    share = space.uniform_share(8, budget)
    assert space.bytes(space.uniform(8, share)) <= budget < space.bytes(space.uniform(8, share + 0.001))
    assert space.uniform_share(16, 10) == 0.0


def test_rows_are_a_geometric_grid():
    space = space_of({"a": np.ones(2 + 100), "b": np.ones(2 + 3), "c": np.zeros(9)})
    grid, few, none = space.row_choices
    assert grid == (100, 71, 50, 35, 25, 18, 13, 9, 6, 4, 0)
    assert few == (3, 0)
    assert none == (0,)
    assert space_of(widths={"user": 8, "item": 16, "dead": 0}).width_choices == (
        (0, 4, 8),
        (0, 4, 8, 12, 16),
        (0,),
    )


def test_kept_codes_are_the_reserved_ones_and_the_best_ids():
    keep = space_of().keep(Genome((8, 4, 0), (3, 0, 0)))
    assert keep["user"].nonzero()[0].tolist() == [0, 1, 3, 6, 9]
    assert keep["item"].nonzero()[0].tolist() == [0, 1]
    assert not keep["dead"].any()


def test_codes_that_cannot_leave_all_stay_or_go():
    space = space_of(whole={"item": 16})
    assert space.row_choices[1] == (3,)
    assert space.keep(Genome((8, 4, 0), (3, 3, 0)))["item"].all()
    with pytest.raises(ValueError, match="feature 'item': 2 rows, but it keeps all 3"):
        space.bytes(Genome((8, 4, 0), (3, 2, 0)))
    given_up = Genome((8, 0, 0), (3, 0, 0))
    assert not space.keep(given_up)["item"].any()
    assert space.bytes(given_up) == compact_bytes(space, given_up)
    assert space.by_score(4, space.least_bytes).rows == (0, 3, 0)


def test_a_field_may_be_given_up_but_not_all_of_them():
    space = space_of()
    one = Genome((4, 0, 0), (2, 0, 0))
    assert space.bytes(one) == compact_bytes(space, one)
    for use in (space.bytes, space.keep, lambda genome: space.fit(genome, 10**6)):
        with pytest.raises(ValueError, match="gives up every field"):
            use(Genome((0, 0, 0), (0, 0, 0)))


def test_a_budget_below_a_row_for_each_field_is_refused_with_the_least():
    space = space_of()
    least = space.bytes(Genome((4, 4, 4), (0, 0, 0)))
    assert space.least_bytes == least
    assert space.fit(space.everything(), least) == Genome((4, 4, 4), (0, 0, 0))
    for use in (lambda b: space.fit(space.everything(), b), lambda b: space.by_score(16, b)):
        with pytest.raises(BudgetError, match=f"need {least} bytes, the budget is {least - 1}") as error:
            use(least - 1)
        assert error.value.needed == least


@pytest.mark.parametrize(
    ("widths", "rows", "message"),
    [
        ((8, 8), (1, 1), "2 fields, but the space has 3: user, item, dead"),
        ((20, 8, 0), (1, 1, 0), "feature 'user': width 20 is above 16"),
        ((8, 8, 0), (7, 1, 0), "feature 'user': 7 rows, but it keeps 0 to 6"),
    ],
)
def test_genomes_of_another_space_are_refused(widths: Any, rows: Any, message: str):
    with pytest.raises(ValueError, match=message):
        space_of().bytes(Genome(widths, rows))


@pytest.mark.parametrize(
    ("widths", "rows", "message"),
    [
        ((8,), (1, 1), "1 widths, but 2 numbers"),
        ((8, 6), (1, 1), "field 1 of a genome: width 6"),
        ((8, -4), (1, 1), "field 1 of a genome: width -4"),
        ((8, 0), (1, 1), "field 1 of a genome: width 0 and 1 rows"),
        ((8, 4), (-1, 1), "field 0 of a genome: width 8 and -1 rows"),
    ],
)
def test_what_is_no_genome_is_refused(widths: Any, rows: Any, message: str):
    with pytest.raises(ValueError, match=message):
        Genome(widths, rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_codes": {"user": 11, "item": 5, "dead": 5}},
            "feature 'user' has 11 codes, but scores of shape",
        ),
        ({"scores": {"user": SCORES["user"]}}, "scores of user, but the features are user, item, dead"),
        ({"widths": {"user": 8, "item": 8}}, "widths of user, item, but the features are user, item, dead"),
        ({"whole": {"age": 8}}, "whole of age, but the features are user, item, dead"),
        ({"whole": {"items": 1}}, "whole of items, but the features are user, item, dead"),
        ({"scores": SCORES | {"item": np.array([0, 0, 1, np.nan, 1])}}, "'item': the score of code 3 is NaN"),
        ({"widths": {"user": 8, "item": 6, "dead": 8}}, "feature 'item': width 6 is none of 0, 4"),
        ({"widths": {"user": 8, "item": 20, "dead": 8}}, "feature 'item': width 20 is none of 0, 4"),
        ({"widths": dict.fromkeys(SCORES, 0)}, "every feature is 0: there is nothing to search"),
    ],
)
def test_what_was_not_learnt_on_this_data_is_refused(given: Any, message: str):
    sizes = {name: len(score) for name, score in SCORES.items()}
    with pytest.raises(ValueError, match=message):
        GenomeSpace(
            **{"features": tuple(SCORES), "num_codes": sizes, "scores": SCORES, "embedding_dim": D, **given}
        )


def test_a_genome_survives_json_and_a_damaged_one_does_not():
    genome = space_of().by_score(8, 1200)
    again = Genome.from_dict(json.loads(json.dumps(genome.to_dict())))
    assert again == genome
    assert hash(again) == hash(genome)
    for damaged in ({}, [], {"widths": [4]}, {"widths": [4], "rows": [1.5]}, {"widths": 4, "rows": [1]}):
        with pytest.raises(ValueError, match="is no genome"):
            Genome.from_dict(damaged)


@pytest.mark.parametrize(
    ("statistics", "histories"), [(["item_id"], ["seen"]), (["user_id", "item_id"], ["a", "b"]), ([], [])]
)
def test_bytes_of_an_experiment_with_statistics_and_histories(
    configure: Any, log: Path, tmp_path: Path, statistics: list[str], histories: list[str]
):
    """As the plan of the compact model counts them: one vocabulary for a target and its histories, statistics in full."""
    sequence = {"kind": "sequence", "column": "item_id", "length": 5, "like": "item_id"}
    features: list[dict[str, Any]] = [{"kind": "categorical", "names": ["user_id", "item_id"]}]
    features += [{"name": name, **sequence} for name in histories]
    features += [{"kind": "statistic", "columns": statistics}] if statistics else []
    din = {
        "name": "din",
        "hidden": [8],
        "interests": [{"target": "item_id", "history": h} for h in histories],
    }
    config = configure(
        data={
            "source": "table",
            "path": str(log),
            "user": "user_id",
            "time": "time",
            "split": {"by": "time"},
        },
        features=features,
        model=din if histories else {"name": "fm"},
    )
    fitted = prepare(config.data, config.features, tmp_path).features()
    scores = {f.name: np.ones(f.num_codes) for f in fitted.categorical if f.name not in histories}
    space = experiment_space(config, fitted, Learned({}, scores, dict.fromkeys(scores, 8)))
    widths = {"user_id": 4, "item_id": 8}
    genome = Genome((4, 8), space.everything().rows)
    compact = {"scheme": "compact", "embedding_dim": 8, "widths": widths}
    plan = plan_of(config.replace({"tables": compact}), fitted)
    assert space.bytes(genome) == plan.bytes.total
    assert space.statistics == plan.bytes.statistics
    assert bool(space.statistics) is bool(statistics)
    budget = space.bytes(genome) - 100
    assert space.bytes(space.fit(genome, budget)) <= budget
