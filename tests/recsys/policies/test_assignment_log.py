"""Assignment logs from files of every kind, and what `recsys abtest` says of those that came out wrong."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.evaluation.online.experiment import analyse
from recsys.evaluation.online.log import Target
from recsys.policies.assignment_log import read_assignments

CLICKS = Target("clicks")


def log(users: int = 300, days: int = 3, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    arm = rng.permutation(np.arange(users) % 2)
    rows = np.repeat(np.arange(users), days)
    first = datetime.date(2024, 1, 31)
    return pl.DataFrame(
        {
            "user_id": rows,
            "variant": np.array(["control", "new"])[arm[rows]],
            "clicks": rng.poisson(2, rows.size),
            "before": (rows % 7).astype(float),
            "day": [first + datetime.timedelta(day) for day in np.tile(np.arange(days), users).tolist()],
        }
    )


def read(path: Path, **options: Any) -> Any:
    return analyse(read_assignments(path, "user_id", "variant", [CLICKS], **options))


def abtest(path: Path, *options: str) -> Any:
    command = ["abtest", str(path), "--metric", "clicks", *options, "--report", str(path.parent / "r.html")]
    return CliRunner().invoke(cli.app, command)


def test_all_kinds_of_files_say_the_same(tmp_path: Path) -> None:
    data = log()
    data.write_parquet(tmp_path / "log.parquet")
    data.write_csv(tmp_path / "LOG.CSV")
    data.write_csv(tmp_path / "log.tsv", separator="\t")
    names = ("log.parquet", "LOG.CSV", "log.tsv")
    found = [read(tmp_path / name, day="day", covariate="before") for name in names]
    assert found[0] == found[1] == found[2]
    assert found[0].days[0] == datetime.date(2024, 1, 31)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_text("no")
    log().write_csv(tmp_path / "log.csv")
    for name, options, said in [
        ("broken.parquet", {}, r"broken\.parquet: this is not a complete Parquet file"),
        ("none.csv", {}, r"none\.csv: no such file"),
        ("log.csv", {"day": "dya"}, r"log\.csv: no column 'dya': did you mean 'day'"),
        (
            "log.csv",
            {"covariate": "variant"},
            r"log\.csv: row 0 \(line 2\): variant is '(control|new)', not a number",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            read(tmp_path / name, **options)


@pytest.mark.parametrize("width", [3, 5])
def test_users_with_leading_zeros_are_users(tmp_path: Path, width: int) -> None:
    data = log(users=200, days=1)
    users = [f"{user // 2:0{width}}" if user % 2 else str(user // 2) for user in data["user_id"].to_list()]
    text = data.with_columns(user_id=pl.Series(users))
    text.write_csv(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv").users == text["user_id"].n_unique() > 100


def test_users_beyond_int64_and_users_that_look_like_dates(tmp_path: Path) -> None:
    for users in (
        [str(2**63 + i) for i in range(40)],
        [f"2024-01-{i % 28 + 1:02}T{i:02}" for i in range(24)],
    ):
        rows = ["user_id,variant,clicks", *(f"{u},{'ab'[i % 2]},{i % 5}" for i, u in enumerate(users))]
        (tmp_path / "log.csv").write_text("\n".join(rows))
        assert read(tmp_path / "log.csv").users == len(users)


@pytest.mark.parametrize("pattern", ["%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%G-W%V", "%b %d %Y"])
def test_days_that_are_not_year_first_are_refused(tmp_path: Path, pattern: str) -> None:
    data = log().with_columns(day=pl.Series([day.strftime(pattern) for day in log()["day"].to_list()]))
    first = data["day"][0]
    data.write_csv(tmp_path / "log.csv")
    data.write_parquet(tmp_path / "log.parquet")
    for name in ("log.csv", "log.parquet"):
        with pytest.raises(
            ValueError, match=f"{name}: row 0: day is '{first}', neither .*: write days as 2024-01-31"
        ):
            read(tmp_path / name, day="day")


@pytest.mark.parametrize(
    ("clock", "zone"), [("T23:30:00", "-05:00"), (" 00:15:00", "+09:00"), ("T12:00:00", "Z")]
)
def test_a_time_with_a_zone_counts_for_its_own_date(tmp_path: Path, clock: str, zone: str) -> None:
    data = log().with_columns(day=pl.col("day").cast(pl.String) + clock + zone)
    data.write_csv(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv", day="day").days == tuple(
        datetime.date(2024, 1, 31) + datetime.timedelta(day) for day in range(3)
    )


def test_na_is_a_text_and_no_number(tmp_path: Path) -> None:
    rows = ["user_id,variant,clicks", *(f"u{i},{('NA', 'null')[i % 2]},{i % 3}" for i in range(20))]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    assert read(tmp_path / "log.csv").sample_ratio.users == {"NA": 10, "null": 10}
    (tmp_path / "log.csv").write_text("\n".join([*rows, "u20,NA,NA"]))
    with pytest.raises(ValueError, match=r"row 20 \(line 22\): clicks is 'NA', not a number"):
        read(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("\n".join([*rows, "u20,NA,"]))
    with pytest.raises(
        ValueError, match="clicks is missing or NaN in 1 rows, first in row 20, user_id 'u20'"
    ):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize("shares", ["control=1,new=1,third=1", "third=0.5, new=0.25 ,control=0.25"])
def test_a_planned_variant_without_users_is_a_broken_split(tmp_path: Path, shares: str) -> None:
    log().write_csv(tmp_path / "log.csv")
    found = abtest(tmp_path / "log.csv", "--expected-share", shares)
    assert found.exit_code == 1
    assert "third has 0 users" in " ".join(found.output.split())
    parsed = json.loads(abtest(tmp_path / "log.csv", "--expected-share", shares, "--json").output)
    assert parsed["sample_ratio"]["users"] == {"control": 150, "new": 150, "third": 0}
    assert parsed["effects"] == []


@pytest.mark.parametrize("blank", ["control ", " control", "control\u00a0"])
def test_blanks_in_the_name_of_a_variant_are_seen(tmp_path: Path, blank: str) -> None:
    data = log().with_columns(
        variant=pl.when(pl.col("user_id") < 60).then(pl.lit(blank)).otherwise("variant")
    )
    data.write_csv(tmp_path / "log.csv")
    found = abtest(tmp_path / "log.csv")
    said = " ".join(found.output.split())
    assert found.exit_code == 1
    assert f"{blank!r} 60" in said
    assert "differ in blanks alone and are counted apart" in said
    assert f"│ {blank!r} " in found.output
