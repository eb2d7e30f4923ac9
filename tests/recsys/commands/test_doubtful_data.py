"""What commands say on standard error of data that are likely not meant: the cases of users, where they lie beside."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys import cli

CASES = Path(__file__).parents[4] / "shared" / "cases"
EXPECTED = {
    "vocabulary_file/sp": "1,792 of its 1,800 values in training (99.6%) are unknown to the vocabulary",
    "split_of_days/days": "train 107 rows (5%), validation 1,440 rows (72%), test 453 rows (23%)",
    "one_class/val": "the validation part has one class: all 400 labels are 0",
    "one_class/test": "the test part has one class: all 400 labels are 0",
}


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder, _, name = request.param.partition("/")
    if not (CASES / folder).is_dir():
        pytest.skip(f"the case {folder} does not lie beside the repository")
    shutil.copytree(CASES / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    return f"{folder}/{name}.yaml"


@pytest.mark.parametrize("case", EXPECTED, indirect=True)
def test_doubts_are_told_and_in_the_json(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["prepare", case], ["prepare", case, "--json"], ["train", case, "--json"]):
        told = CliRunner().invoke(cli.app, command, catch_exceptions=False)
        assert told.exit_code == 0
        assert EXPECTED[case.removesuffix(".yaml")] in told.stderr
        if command[0] == "prepare" and "--json" in command:
            assert len(json.loads(told.stdout)["doubts"]) == 1
        if command[0] == "train":
            part = {"one_class/val": "validation", "one_class/test": "test"}.get(case.removesuffix(".yaml"))
            metrics = json.loads(told.stdout)
            assert [name for name in ("validation", "test") if metrics[name]["auc"] is None] == (
                [part] if part else []
            )
