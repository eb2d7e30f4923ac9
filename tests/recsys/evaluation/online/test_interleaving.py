"""Team drafts are fair, credit is right, tests keep their error, and what is wrong in a log is named."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from typer.testing import CliRunner

from recsys import cli
from recsys.evaluation.online.interleaving import Interleaving, analyse_interleaving, team_draft
from recsys.policies.interleaving_log import read_interleaved

HAS_PICTURES = find_spec("matplotlib") is not None  # the extra `pictures`

BEST = list(range(20))
MIXED = BEST[10:] + BEST[:10]


def simulate(
    seed: int, first: list[int], second: list[int], users: int = 80, lists: int = 4, length: int = 6
) -> pl.DataFrame:
    """Users look at team drafts; item i pleases with probability 0.6 / (1 + i / 3), times a user's own eagerness."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        eager = rng.beta(1, 1)
        for session in range(rng.integers(1, 2 * lists)):
            items, teams = team_draft(first, second, length, rng)
            for place, (item, team) in enumerate(zip(items, teams, strict=True), 1):
                click = rng.random() < 0.6 / (1 + item / 3) * eager
                rows.append((f"{user}-{session}", f"u{user}", place, item, "AB"[team], int(click)))
    columns = ["impression", "user", "position", "item", "team", "click"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def analyse(data: pl.DataFrame, folder: Path, **options: Any) -> Interleaving:
    data.write_parquet(folder / "log.parquet")
    return analyse_interleaving(read_interleaved(folder / "log.parquet"), **options)


rankings = st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=10)


@settings(max_examples=200)
@given(rankings, rankings, st.integers(1, 12), st.integers(0, 2**32))
def test_a_draft_is_the_papers(first: list[int], second: list[int], length: int, seed: int) -> None:
    items, teams = team_draft(first, second, length, np.random.default_rng(seed))
    rng, shown, of = np.random.default_rng(seed), [], []
    while len(shown) < length and set(first) - set(shown) and set(second) - set(shown):
        a, b = of.count(0), of.count(1)
        coin = rng.random() < 0.5 if a == b else None
        team = int(coin) if coin is not None else int(a > b)
        shown.append(next(item for item in (first, second)[team] if item not in shown))
        of.append(team)
    assert (items, teams.tolist()) == (shown, of)
    assert len(set(items)) == len(items)


def test_a_draft_gives_both_teams_every_place_alike() -> None:
    rng = np.random.default_rng(1)
    teams = np.array([team_draft(BEST, MIXED, 6, rng)[1] for _ in range(4000)])
    assert np.abs(teams.mean(axis=0) - 0.5).max() < 3.5 * 0.5 / np.sqrt(4000)
    assert (teams[:, ::2] != teams[:, 1::2]).all()
    again = team_draft(BEST, MIXED, 6, np.random.default_rng(5))
    np.testing.assert_array_equal(again[1], team_draft(BEST, MIXED, 6, np.random.default_rng(5))[1])
    with pytest.raises(ValueError, match="the second ranking repeats an item"):
        team_draft([1, 2], [1, 1], 2, rng)
    with pytest.raises(ValueError, match="length is 0"):
        team_draft([1, 2], [1, 2], 0, rng)


def test_numbers_are_those_of_ten_lines(tmp_path: Path) -> None:
    data = simulate(3, BEST, MIXED, users=30)
    found = analyse(data.sample(fraction=1, shuffle=True, seed=2), tmp_path)
    by_list: dict[str, tuple[str, int]] = {}
    for row in data.iter_rows(named=True):
        user, lead = by_list.get(row["impression"], (row["user"], 0))
        by_list[row["impression"]] = (user, lead + row["click"] * (1 if row["team"] == "A" else -1))
    won = {name: (user, np.sign(lead)) for name, (user, lead) in by_list.items()}
    values = np.array([sign for _, sign in won.values()])
    assert found.impressions == len(values)
    assert found.wins == ((values > 0).sum(), (values < 0).sum())
    assert found.ties + found.without_click == (values == 0).sum()
    assert found.preference == pytest.approx((found.wins[0] + (values == 0).sum() / 2) / len(values) - 0.5)
    sums = [sum(s / 2 - found.preference for u, s in won.values() if u == user) for user in set(data["user"])]
    g = len(sums)
    assert found.standard_error == pytest.approx(np.sqrt(np.square(sums).sum() * g / (g - 1)) / len(values))
    totals = [sum(s for u, s in won.values() if u == user) for user in set(data["user"])]
    ahead, behind = sum(t > 0 for t in totals), sum(t < 0 for t in totals)
    assert found.preferring == (ahead, behind)
    assert found.sign_p == pytest.approx(binomtest(ahead, ahead + behind).pvalue)
    assert found.clicks == tuple(data.filter(pl.col("team") == t)["click"].sum() for t in "AB")
    assert found.first_places[0] == len(data.filter((pl.col("position") == 1) & (pl.col("team") == "A")))
    rate = data.filter((pl.col("position") == 2) & (pl.col("team") == "B"))["click"].mean()
    assert found.click_rates[1][1] == pytest.approx(rate)


def test_equal_rankers_are_equal_and_the_better_one_is_found(tmp_path: Path) -> None:
    other = [
        1,
        0,
        3,
        2,
        5,
        4,
        *range(6, 20),
    ]  # as good in all but order: each place gives what the other takes
    rejected, preferences = 0, []
    for seed in range(200):
        found = analyse(simulate(seed, BEST, BEST, users=30), tmp_path)
        rejected += found.verdict in ("first", "second")
        preferences.append(found.preference)
    assert 3 <= rejected <= 20, "5 % of 200 is 10"
    assert abs(np.mean(preferences)) < 3.5 * np.std(preferences) / np.sqrt(200)
    assert analyse(simulate(0, BEST, MIXED), tmp_path).verdict == "first"
    assert analyse(simulate(0, MIXED, BEST), tmp_path).verdict == "second"
    assert analyse(simulate(0, BEST, other), tmp_path).verdict == "undecided"


def test_a_coin_that_is_not_fair_is_told_and_few_users_get_no_verdict(tmp_path: Path) -> None:
    data = simulate(0, BEST, MIXED)
    opened_by_b = data.filter((pl.col("position") == 1) & (pl.col("team") == "B"))["impression"]
    kept = data.filter(~pl.col("impression").is_in(opened_by_b.head(100).implode()))
    found = analyse(kept, tmp_path)
    assert found.verdict == "broken"
    assert "which is no fair coin" in found.note
    few = analyse(simulate(1, BEST, MIXED, users=6), tmp_path)
    assert few.verdict == "unreliable"
    assert re.fullmatch("only [1-6] users prefer either", few.note)
    alone = analyse(data.drop("user"), tmp_path)
    assert alone.users is None
    assert alone.preference == analyse(data, tmp_path).preference


def test_a_list_is_opened_at_its_own_first_place(tmp_path: Path) -> None:
    data = simulate(0, BEST, MIXED)
    whole = analyse(data, tmp_path)
    second_page = data.with_columns(
        position=pl.col("position") + 6 * ~pl.col("impression").str.ends_with("-0")
    )
    found = analyse(second_page.sample(fraction=1, shuffle=True, seed=1), tmp_path)
    assert sum(found.first_places) == found.impressions
    assert found.first_places == whole.first_places
    assert found.coin_p == whole.coin_p
    by_b = second_page.filter((pl.col("position") == 7) & (pl.col("team") == "B"))["impression"]
    kept = analyse(second_page.filter(~pl.col("impression").is_in(by_b.implode())), tmp_path)
    assert kept.verdict == "broken"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("click", 2, "click is 2: a click is 0 or 1"),
        ("click", None, "click is missing"),
        ("team", "C", "team is C, neither A nor B"),
        ("team", None, "team is missing"),
        ("position", 1, "impression 0-1 has position 1 twice"),
        ("user", "u3", "impression 0-1 has user u3, and u0 before"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, suffix: str, column: str, value: Any, fault: str) -> None:
    data = simulate(2, BEST, MIXED)
    assert data["impression"][6] == data["impression"][7] == "0-1"
    data[7, column] = value
    path = tmp_path / f"log.{suffix}"
    getattr(data, f"write_{suffix}")(path)
    place = "row 7 (line 9)" if suffix == "csv" else "row 7"
    with pytest.raises(ValueError, match=re.escape(f"log.{suffix}: {place}: {fault}")):
        read_interleaved(path)


def test_ids_of_a_text_file_are_text(tmp_path: Path) -> None:
    """Teams 1 and 01, items and impressions with leading zeros: none is another's twin."""
    data = simulate(3, BEST, MIXED)
    odd = data.with_columns(
        team=pl.when(pl.col("team") == "A").then(pl.lit("1")).otherwise(pl.lit("01")),
        item=pl.when(pl.col("position") == 1)
        .then(pl.lit("7"))
        .when(pl.col("position") == 2)
        .then(pl.lit("07"))
        .otherwise("i" + pl.col("item").cast(pl.String)),
        user=pl.col("user").str.replace("u", "0"),
    )
    odd.write_csv(tmp_path / "log.tsv", separator="\t")
    log = read_interleaved(tmp_path / "log.tsv", teams=("1", "01"))
    assert log.team_names == ("1", "01")
    assert log.teams.sum() == (data["team"] == "B").sum()
    assert log.impressions.max() + 1 == data["impression"].n_unique()
    twice = odd.with_columns(item=pl.col("item").str.strip_prefix("0"))
    twice.write_csv(tmp_path / "log.tsv", separator="\t")
    with pytest.raises(ValueError, match="has item 7 twice"):
        read_interleaved(tmp_path / "log.tsv")


def test_bad_logs_are_named(tmp_path: Path) -> None:
    data = simulate(2, BEST, MIXED)
    twice = data.clone()
    twice[7, "item"] = twice["item"][6]
    for bad, message in [
        (data.head(0), "log.csv: has no rows"),
        (data.drop("team"), "log.csv: has no column team or ranker, but impression"),
        (data.with_columns(click=0), "log.csv: click is 0 in every row"),
        (data.with_columns(user=pl.lit("u")), "log.csv: all rows have one user"),
        (data.with_columns(team=pl.lit("A")), "log.csv: team is A alone"),
        (twice, "row 7 (line 9): impression 0-1 has item"),
        (
            data.filter(impression="0-1").drop("user").with_columns(click=pl.int_range(pl.len()) % 2),
            "log.csv: has one impression only: no error can be estimated, use more lists",
        ),
    ]:
        bad.write_csv(tmp_path / "log.csv")
        with pytest.raises(ValueError, match=re.escape(message)):
            read_interleaved(tmp_path / "log.csv")
    data.write_csv(tmp_path / "log.csv")
    with pytest.raises(ValueError, match=r"row 0 \(line 2\): team is [AB], neither new nor old"):
        read_interleaved(tmp_path / "log.csv", teams=("new", "old"))
    with pytest.raises(ValueError, match="level is 1"):
        analyse_interleaving(read_interleaved(tmp_path / "log.csv"), level=1)


def test_command(tmp_path: Path) -> None:
    log, report = tmp_path / "log.csv", tmp_path / "out" / "report.html"
    simulate(0, MIXED, BEST).rename({"team": "ranker", "click": "tapped"}).write_csv(log)
    arguments = ["interleave", str(log), "--click", "tapped", "--report", str(report)]

    def invoke(*more: str, status: int = 0) -> str:
        result = CliRunner().invoke(cli.app, [*arguments, *more], catch_exceptions=False)
        assert result.exit_code == status
        return result.stdout

    found = json.loads(invoke("--json"))
    assert found["verdict"] == "second"
    assert found["teams"] == ["A", "B"]
    assert "users prefer B" in found["summary"]
    turned = json.loads(invoke("--json", "--teams", "B,A"))
    assert turned["preference"] == -found["preference"]
    assert turned["verdict"] == "first"
    text = report.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == HAS_PICTURES
    assert turned["summary"] in text
    assert "users prefer B" in " ".join(invoke().split())
    data = pl.read_csv(log)
    data.filter((pl.col("position") > 1) | (pl.col("ranker") == "A")).write_csv(log)
    assert "no fair coin" in " ".join(invoke(status=1).split())
    with pytest.raises(ValueError, match="--teams 'A': give two names"):
        invoke("--teams", "A")
