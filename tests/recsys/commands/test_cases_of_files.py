"""Files that came out wrong, through the commands: text that was taken for numbers, days that were taken for others."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recsys import cli

SHARED = os.environ.get("RECSYS_SHARED_DATA")
CASES = (Path(SHARED).parent if SHARED else Path(__file__).parents[4] / "shared") / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")


def run(tmp_path: Path, command: str, *arguments: str) -> Any:
    paths = [str(CASES / word) if "/" in word else word for word in arguments]
    report = ["--report", str(tmp_path / "r.html")]
    return CliRunner().invoke(cli.app, [command, *paths, *report, "--json"])


def found(tmp_path: Path, command: str, *arguments: str, status: int = 0) -> Any:
    result = run(tmp_path, command, *arguments)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def compare(tmp_path: Path, *arguments: str) -> Any:
    return found(tmp_path, "compare", *arguments, "--replicates", "100")


@pytest.mark.parametrize(("name", "value"), [("us", "01/08/2024"), ("us_over_new_year", "12/10/2023")])
def test_month_first_is_refused(tmp_path: Path, name: str, value: str) -> None:
    result = run(tmp_path, "abtest", f"dates/{name}.csv", "--metric", "clicks", "--day", "day")
    assert isinstance(result.exception, ValueError)
    assert f"{name}.csv: row 0: day is '{value}', neither a date with the year first" in str(result.exception)


def test_half_past_eleven_is_still_the_same_day(tmp_path: Path) -> None:
    test = found(tmp_path, "abtest", "dates/tz.csv", "--metric", "clicks", "--day", "day")
    assert test["days"] == ["2024-01-01", "2024-01-02", "2024-01-03"]


def test_leading_zeros_are_part_of_an_id(tmp_path: Path) -> None:
    rows = compare(tmp_path, "leading_zeros/a.csv", "leading_zeros/b.csv")
    users = compare(tmp_path, "leading_zeros/user_a.csv", "leading_zeros/user_b.csv")
    assert rows["comparison"]["rows"] == 6000
    assert users["comparison"]["clusters"] == 200
    for name, status in (("lead_same", 1), ("lead", 0)):
        test = found(tmp_path, "abtest", f"leading_zeros/{name}.csv", "--metric", "clicks", status=status)
        assert test["users"] == 4000
        assert test["sample_ratio"]["passed"] == (status == 0)


def test_namibia_is_not_missing(tmp_path: Path) -> None:
    judged = compare(tmp_path, "na_is_namibia/a.csv", "na_is_namibia/b.csv", "--slice", "country")
    assert judged["slices"]["sizes"]["country"] == {"NA": 2058, "DE": 2003, "US": 1939}


def test_ids_beyond_int64_are_paired(tmp_path: Path) -> None:
    assert compare(tmp_path, "row_ids/a.csv", "row_ids/b.csv")["comparison"]["rows"] == 1000


def test_endings_say_the_same(tmp_path: Path) -> None:
    tests = [
        found(tmp_path, "abtest", f"endings/{name}", "--metric", "clicks")
        for name in ("AB.CSV", "ab.csv.zst", "ab.tsv")
    ]
    assert tests[0] == tests[1] == tests[2]
    assert tests[0]["users"] == 2000


def test_a_variant_without_users_and_variants_with_blanks(tmp_path: Path) -> None:
    shares = ("--expected-share", "control=1,treatment=1,third=1")
    two = found(tmp_path, "abtest", "abtest/two.csv", "--metric", "clicks", *shares, status=1)
    assert two["sample_ratio"]["users"]["third"] == 0
    assert "third has 0 users" in two["summary"]
    blank = found(tmp_path, "abtest", "abtest/blank.csv", "--metric", "clicks", status=1)
    assert "'control ' 385" in blank["summary"]
    assert "treatment and 'treatment ' differ in blanks alone" in blank["summary"]
