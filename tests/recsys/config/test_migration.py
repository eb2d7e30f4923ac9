"""Files of version 0.1 are refused with the names of today, and rewritten with everything else as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import ConfigError, load_experiment
from recsys.config.migration import migrated, renamed
from recsys.training.run import Run
from recsys_cython_ext.files import write_json

from ..conftest import Configure, forget_checksums

OLD = """\
# of 0.1
extends: full.yaml
set: {search.trials: 4, features.encoding: hash, "shrink.seed": 3}   # dotted
search:   # validation trials
  space: {training.table_lr: [0.1, 0.2]}
shrink: {learner: {tables.scheme: pep}}
name: research   # not a section
"""


def test_sections_are_renamed_and_nothing_else() -> None:
    new = migrated(OLD, Path("a.yaml"))
    expected = OLD.replace("\nsearch:", "\ntuning:").replace("\nshrink:", "\ncompression:")
    assert new == expected.replace("search.trials", "tuning.trials").replace(
        "shrink.seed", "compression.seed"
    )
    assert migrated(new, Path("a.yaml")) == new
    assert yaml.safe_load(new) == renamed(yaml.safe_load(OLD))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a.yaml: holds list"),
        ("a: [", "a.yaml: not YAML"),
        ("search: {trials: 2}\ntuning: {trials: 3}\n", "has both 'search' and 'tuning'"),
        ("{name: a, search: {trials: 2}}", "rename by hand"),
    ],
)
def test_what_cannot_be_rewritten_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        migrated(text, Path("a.yaml"))


@pytest.mark.parametrize(
    ("section", "name"), [({"search": {"trials": 2}}, "tuning"), ({"shrink": {"seed": 2}}, "compression")]
)
def test_an_old_section_is_refused_with_its_new_name(
    configure: Configure, tmp_path: Path, section: dict[str, Any], name: str
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump(configure().model_dump(mode="json", exclude_unset=True) | section))
    with pytest.raises(
        ConfigError, match=rf"old\.yaml: {next(iter(section))}: is called '{name}' now: .*migrate"
    ):
        load_experiment(file)
    result = CliRunner().invoke(app, ["migrate", str(file), "--json"])
    assert result.exit_code == 0, result.output
    config = load_experiment(file)
    assert config.tuning.trials == 2 or config.compression.seed == 2
    assert "rewritten" not in CliRunner().invoke(app, ["migrate", str(file)]).output


def test_of_several_files_all_or_none_are_rewritten(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("search: {trials: 2}\n")
    bad.write_text("[1]")
    assert isinstance(CliRunner().invoke(app, ["migrate", str(good), str(bad)]).exception, ConfigError)
    assert good.read_text() == "search: {trials: 2}\n"


def test_a_run_of_0_1_is_opened_and_its_predictions_are_read(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    settings = yaml.safe_load((run.path / "config.yaml").read_text())
    for new, section in (("tuning", "search"), ("compression", "shrink")):
        settings[section] = settings.pop(new)
    (old / "config.yaml").write_text(yaml.safe_dump(settings))
    (old / "predictions.parquet").write_bytes((run.path / "predictions.parquet").read_bytes())
    prepared = tmp_path / "prepared-by-0.1"
    write_json({"format_version": 2, "hash_version": 1, "shards": {}}, prepared / "manifest.json")
    metrics = json.loads((run.path / "metrics.json").read_text())
    write_json(metrics | {"prepared": str(prepared)}, old / "metrics.json")
    forget_checksums(old)
    warned: list[str] = []
    assert Run.open(old, warned.append).config == run.config
    assert Run.open(old, warned.append).predictions() == run.predictions()
    names = ", ".join(str(old / name) for name in ("metrics.json", "config.yaml", "predictions.parquet"))
    assert warned[0].startswith(f"not verified: {names} (")
    result = CliRunner().invoke(
        app, ["compare", f"a={run.path}", f"b={old}", "--report", str(tmp_path / "r.html")]
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("not verified: ") == 1
