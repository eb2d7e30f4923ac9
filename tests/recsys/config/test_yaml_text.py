"""YAML of any text ends in a value or in one sentence, quickly."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import ConfigError, load_experiment
from recsys.config.migration import migrated
from recsys.config.yaml_text import YamlError, parse_yaml
from recsys.training.run import Run

from ..conftest import Configure

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {a: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 5: more than 100,000 values, with those that aliases"),
        (MERGES, "more than 100,000 values, with those that aliases"),
        ("[" * 3000, "line 1: nested more than 50 levels deep"),
        ("[" * 3000 + "]" * 3000, "line 1: nested more than 50 levels deep"),
        ("{a: " * 3000, "line 1: nested more than 50 levels deep"),
        ("- " * 3000 + "x", "line 1: nested more than 50 levels deep"),
        ("a: &a [1, *a]", r"line 1: \*a stands within the value that it repeats"),
        ("x: 1\ny: 2\nx: 3", "line 3: the key 'x' stands in its mapping twice"),
        ("x: {y: 1, 'y': 2}", "line 1: the key 'y' stands in its mapping twice"),
        (f"x: {'9' * 5000}", "not YAML: .*4300 digits"),
        ("x: 2001-13-41", "not YAML: month"),
        (f"x: {'9:' * 2000}1.5", "not YAML: int too large"),
        ("x: [", "not YAML: .*line 1"),
        ("x: !!python/name:os.system", "not YAML: could not determine a constructor"),
        ("#" + "x" * 2_000_000, "2,000,001 characters are more than the 2,000,000"),
    ],
)
def test_what_is_no_experiment_is_refused_early(text: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(YamlError, match=message) as error:
        parse_yaml(text)
    assert time.monotonic() - began < 5
    assert "\n" not in str(error.value)


def test_aliases_and_merges_of_a_sensible_size_are_read() -> None:
    text = "base: &base {hidden: [8, 4], x: 1}\nover: &over {<<: *base, x: 2}\nlast: {<<: *over, y: *base}\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    deep = (
        "base: &b {p: 1, q: 2}\nover: {mid: &m {<<: *b, p: 3}}\nlast: {<<: *m}\n"  # merged after it was used
    )
    assert parse_yaml(deep) == yaml.safe_load(deep)


@given(st.recursive(st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_reads_what_yaml_writes(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@given(st.text("[]{}:,&*<-? ab1\n'\"|", max_size=40))
def test_other_texts_end_in_a_value_or_a_sentence(text: str) -> None:
    with suppress(YamlError):
        parse_yaml(text)


def test_every_reader_of_yaml_has_the_limits(tmp_path: Path) -> None:
    experiment = tmp_path / "bomb.yaml"
    experiment.write_text(BOMB)
    with pytest.raises(ConfigError, match=r"bomb\.yaml: line 5: more than 100,000 values"):
        load_experiment(experiment)
    with pytest.raises(ConfigError, match=r"bomb\.yaml: line 5"):
        migrated(BOMB, experiment)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "metrics.json").write_text(json.dumps({"prepared": "set"}))
    (copy / "config.yaml").write_text("[" * 3000)
    with pytest.raises(ConfigError, match=r"damaged \(line 1: nested more than 50 levels deep\)"):
        Run.open(copy)


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("tables.embedding_dim", 4_000_000_000, "less than or equal to 4096"),
        ("tables.budget_embedding_dim", 2**40, "less than or equal to 4096"),
        ("training.num_threads", 100_000, "less than or equal to 1024"),
        ("training.epochs", 10**9, "less than or equal to 10000"),
        ("training.batch_size", 2**40, "less than or equal to 16777216"),
        ("training.evaluations_per_epoch", 10**9, "less than or equal to 10000"),
        ("evaluation.batch_size", 2**40, "less than or equal to 16777216"),
        ("evaluation.replicates", 10**12, "less than or equal to 1000000"),
        ("tuning.trials", 10**9, "less than or equal to 100000"),
        ("training.seed", 2**32, "less than 4294967296"),
        ("tuning.seed", 2**63, "less than 4294967296"),
        ("tuning.training_seed", 2**70, "less than 4294967296"),
        ("compression.seed", 2**32, "less than 4294967296"),
        ("model.hidden", [4_000_000_000], "less than or equal to 65536"),
    ],
)
def test_numbers_beyond_reason_are_refused_by_key(
    configure: Configure, key: str, value: Any, limit: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}.*{limit} \(value"):
        configure({key: value})


@pytest.mark.parametrize("path", ["~nosuchuser/log.parquet", "a\0b", "~\0/x"])
@pytest.mark.parametrize("key", ["data.path", "training.start"])
def test_what_cannot_be_a_path_is_said(configure: Configure, tmp_path: Path, path: str, key: str) -> None:
    raw = configure().model_dump(mode="json", exclude_unset=True)
    section, name = key.split(".")
    raw.setdefault(section, {})[name] = path
    file = tmp_path / "path.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=rf"path.yaml: {name}: .* cannot be a path"):
        load_experiment(file)
