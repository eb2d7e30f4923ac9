"""Every mistake names file, key, value and remedy; inheritance and settings do what they say."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.comparison.budgets import with_budgets
from recsys.config import ConfigError, ExperimentConfig, load_experiment, parse_experiment
from recsys_pipelines.features import specs_of
from recsys_pipelines.features.convert import columns_of
from recsys_pipelines.sources import (
    amazon,
    avazu,
    criteo,
    kdd12,
    kuairec,
    movielens_1m,
    movielens_csv,
    open_bandit,
    taobao_ad,
)

CONFIGS = Path(__file__).parents[3] / "configs"
RAW: dict[str, Any] = {
    "name": "a",
    "data": {"source": "table", "path": "log.csv"},
    "features": [
        {"kind": "numeric", "names": ["x"]},
        {"kind": "categorical", "names": ["item_id"]},
        {"kind": "categorical", "names": ["tags"], "multivalued": True},
    ],
    "tables": {"scheme": "hash", "embedding_dim": 8, "budget": "10%"},
    "model": {"name": "lr"},
}
GENERATOR = {"rows": 10, "fields": [{"name": "user_id", "num_ids": 3}], "history": 0}

# What each published format has: a recipe that asks for more could never run.
PUBLISHED = {
    "criteo": criteo.COLUMNS,
    "avazu": (
        *("click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id"),
        *("app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
        *("device_conn_type", *(f"C{i}" for i in range(14, 22)), *avazu.DERIVED),
    ),
    "table": ("label", *(f"f{i}" for i in range(10))),  # Frappe's
    "movielens_1m": movielens_1m.MovieLens1M.columns,
    "movielens_csv": movielens_csv.MovieLensCSV.columns,
    "taobao_ad": taobao_ad.TaobaoAd.columns,
    "kdd12": kdd12.Kdd12.columns,
    "amazon": amazon.Amazon.columns,
    "open_bandit": (
        *open_bandit.NAMES,
        *(f"user_feature_{k}" for k in range(4)),
        *(f"item_feature_{k}" for k in range(4)),
    ),
    "kuairec": (
        *(*kuairec.MATRIX, *kuairec.LISTS, "user_active_degree", "is_lowactive_period", "is_live_streamer"),
        *("is_video_author", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range"),
        *("register_days_range", *(f"onehot_feat{k}" for k in range(18))),
    ),
    "recbole": (
        *("user_id", "item_id", "rating", "timestamp", "age", "gender", "occupation", "zip_code"),
        *("movie_title", "release_year", "class"),
    ),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a YAML file beside an empty log.csv."""
    (tmp_path / "log.csv").touch()

    def one(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return one


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_recipe_loads(path: Path, tmp_path: Path) -> None:
    data = tmp_path / "some.file"
    data.touch()
    generated = load_raw_source(path) == "generated"
    config = load_experiment(path, data=None if generated else data)
    assert config.data.path == (None if generated else data)
    if not generated:
        columns = PUBLISHED[config.data.source]
        asked = {config.data.label.column, config.data.user, config.data.time, config.data.weight} - {None}
        assert asked | set(columns_of(specs_of(config.features))) <= set(columns)
    assert parse_experiment(config.model_dump(mode="json"), "again") == config


def test_a_url_is_no_path_beside_the_recipe(write: Callable[..., Path]) -> None:
    path = write("a.yaml", RAW | {"data": {"source": "table", "path": "s3://bucket/log.csv"}})
    assert str(load_experiment(path).data.path) == "s3://bucket/log.csv"


def load_raw_source(path: Path) -> str:
    raw = yaml.safe_load(path.read_text())
    source = raw.get("data", {}).get("source")
    return source or load_raw_source(path.parent / raw["extends"])


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("trainig", {}, "F.yaml: trainig: unknown key (value {}); did you mean 'training'?"),
        (
            "size",
            3,
            "F.yaml: size: unknown key (value 3); valid here: compression, data, evaluation, features",
        ),
        ("training", {"epoch": 3}, "F.yaml: training.epoch: unknown key (value 3); did you mean 'epochs'?"),
        ("tables", {"scheme": "full", "hash": 1}, "F.yaml: tables.hash: unknown key (value 1); "),
        (
            "tables",
            {"scheme": "unifed", "budget": "1%"},
            "F.yaml: tables.scheme: 'unifed' is not known; did you mean 'unified'? valid: full, ",
        ),
        ("tables", {"scheme": "hash"}, "F.yaml: tables.budget: required, but not given"),
        ("tables", {}, "F.yaml: tables.scheme: required, but not given; valid: full, "),
        (
            "model",
            {"name": "dcn_v3"},
            "F.yaml: model.name: 'dcn_v3' is not known; did you mean 'dcn_v2'? valid: lr,",
        ),
        ("model", {"name": "deepfm", "hidden": [8, 0]}, "F.yaml: model.hidden.1: Input should be greater "),
        ("model", None, "F.yaml: model: Input should be a valid dictionary"),
        ("name", "a/b", "F.yaml: name: String should match pattern"),
        ("training", {"epochs": "many"}, "F.yaml: training.epochs: Input should be a valid integer"),
        ("training", {"epochs": "many"}, "(value 'many')"),
        (
            "training",
            {"table_lr": float("inf")},
            "F.yaml: training.table_lr: Input should be a finite number",
        ),
        ("training", {"batch_size": 100}, "F.yaml: training.batch_size: Input should be a multiple of 64"),
        ("training", {"monitor": "log_loss"}, "did you mean 'logloss'? (value 'log_loss')"),
        (
            "data",
            {"source": "criteoo", "path": "x"},
            "F.yaml: data.source: Input should be 'criteo', 'avazu'",
        ),
        ("data", {"source": "criteoo", "path": "x"}, "did you mean 'criteo'? (value 'criteoo')"),
        ("data", {"source": "criteo"}, "F.yaml: data: `path` is required for every source but `generated`"),
        (
            "data",
            {"source": "generated", "generator": GENERATOR | {"numeric": -1}},
            "F.yaml: data.generator.numeric: Input should be greater than or equal to 0 (value -1)",
        ),
        (
            "data",
            {"source": "generated", "generator": {"rows": 9, "fields": [{"name": "u", "num_id": 3}]}},
            "F.yaml: data.generator.fields.0.num_id: unknown key (value 3); did you mean 'num_ids'?",
        ),
        (
            "features",
            [{"kind": "categoricle", "names": ["a"]}],
            "F.yaml: features.0.kind: 'categoricle' is not known; did you mean 'categorical'?",
        ),
        (
            "features",
            [{"kind": "categorical", "names": ["a"], "mincount": 2}],
            "F.yaml: features.0.mincount: unknown key (value 2); did you mean 'min_count'?",
        ),
        ("features", [{"kind": "categorical"}], "F.yaml: features.0.names: required, but not given"),
        (
            "features",
            [{"kind": "categorical", "names": ["a", 1]}],
            "F.yaml: features.0.names.1: Input should",
        ),
        ("features", ["a"], "F.yaml: features.0: Input should be a valid dictionary"),
        ("features", [{"kind": "categorical", "names": ["a", "a"]}], "features declared twice: a"),
        ("features", [{"kind": "numeric", "names": ["x"]}], "needs at least one categorical feature"),
        ("tuning", {"space": {"training.table_lr": 0.1}}, "tuning.space.training.table_lr: Input should be"),
    ],
)
def test_a_mistake_names_file_key_value_and_remedy(section: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_experiment(RAW | {section: value}, "F.yaml")
    assert message in str(caught.value)
    assert all(line.startswith("F.yaml: ") for line in str(caught.value).splitlines())


def test_a_missing_section_and_several_mistakes_are_all_listed() -> None:
    raw = {key: value for key, value in RAW.items() if key != "model"} | {"training": {"epochs": 0}}
    with pytest.raises(ConfigError) as caught:
        parse_experiment(raw, "F.yaml")
    assert sorted(line.split(":")[1] for line in str(caught.value).splitlines()) == [
        " model",
        " training.epochs",
    ]


@pytest.mark.parametrize("budget", ["10%", "0.5 %", "64MB", "1.5GiB", "2000B", "250%"])
def test_a_budget_is_a_share_or_bytes(budget: str) -> None:
    assert (
        parse_experiment(RAW | {"tables": {"scheme": "hash", "budget": budget}}, "F").tables.budget == budget
    )


@pytest.mark.parametrize(
    "budget", ["abc", "0%", "0MB", "-3%", "10", "10 lightyears", "%", "1e3MB", "", 10, None]
)
def test_anything_else_is_no_budget(budget: Any) -> None:
    with pytest.raises(ConfigError, match=r"F: tables\.budget: .*budget"):
        parse_experiment(RAW | {"tables": {"scheme": "hash", "budget": budget}}, "F")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"scheme": "unified", "chunk_dim": 12}, "16 is not a whole number of chunks of chunk_dim 12"),
        (
            {"scheme": "quotient_remainder", "operation": "concat", "embedding_dim": 4},
            "a multiple of 8, .* not 4",
        ),
        ({"scheme": "hash", "embedding_dim": 6}, "a multiple of 4"),
    ],
)
def test_widths_that_no_table_can_have(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"F: tables.*{message}"):
        parse_experiment(RAW | {"tables": tables | {"budget": "10%"}}, "F")


def test_files_that_hold_no_experiment(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"bad.yaml: not YAML: .*") as caught:
        load_experiment(write("bad.yaml", "name: [a\nb: ]"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"list.yaml: holds list, not keys such as data"):
        load_experiment(write("list.yaml", "- a"))
    with pytest.raises(ConfigError, match=r"empty.yaml: holds NoneType"):
        load_experiment(write("empty.yaml", ""))
    path = write("latin.yaml", "")
    path.write_bytes("name: Café".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.yaml: not YAML"):
        load_experiment(path)


def test_missing_files_and_their_nearest_names(write: Callable[..., Path], tmp_path: Path) -> None:
    write("unified.yaml", RAW)
    with pytest.raises(ConfigError, match=r"unifid.yaml: no such file; did you mean \S*/unified.yaml\?"):
        load_experiment(tmp_path / "unifid.yaml")
    with pytest.raises(ConfigError, match=r"no/such.yaml: no such file$"):
        load_experiment(tmp_path / "no" / "such.yaml")
    child = write("child.yaml", {"extends": "unifed.yaml"})
    with pytest.raises(
        ConfigError, match=r"child.yaml: extends: \S*unifed.yaml: .*did you mean \S*/unified.yaml"
    ):
        load_experiment(child)
    path = write("data.yaml", RAW | {"data": {"source": "table", "path": "logg.csv"}})
    with pytest.raises(
        ConfigError,
        match=r"data.yaml: data.path: \S*/logg.csv does not exist; did you mean \S*/log.csv\?; .*--data",
    ):
        load_experiment(path)
    with pytest.raises(ConfigError, match=r"data.path: \S*/qwxyz.dat does not exist; correct it"):
        load_experiment(path, data=tmp_path / "qwxyz.dat")


def test_data_is_found_beside_the_file_that_names_it(write: Callable[..., Path], tmp_path: Path) -> None:
    base = write("base.yaml", RAW)
    assert load_experiment(base).data.path == tmp_path / "log.csv"
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    (deeper / "log.csv").touch()
    child = deeper / "child.yaml"
    child.write_text("extends: ../base.yaml\n")
    assert load_experiment(child).data.path == tmp_path / "log.csv"
    child.write_text("extends: ../base.yaml\nset: {data.path: log.csv}\n")
    assert load_experiment(child).data.path == deeper / "log.csv"
    assert load_experiment(child, data=base).data.path == base


def test_extends_merges_sections_and_replaces_other_kinds(write: Callable[..., Path]) -> None:
    write("base.yaml", RAW | {"training": {"epochs": 7, "seed": 3}})
    write("middle.yaml", {"extends": "base.yaml", "training": {"seed": 4}, "set": {"features.min_count": 2}})
    config = load_experiment(
        write(
            "child.yaml",
            {
                "extends": "middle.yaml",
                "name": "child",
                "tables": {"scheme": "unified", "budget": "5%"},
                "set": {"features.encoding": "hash", "features.min_count": 1, "evaluation.level": 0.9},
            },
        )
    )
    assert (config.name, config.training.epochs, config.training.seed) == ("child", 7, 4)
    assert config.tables.scheme == "unified"
    assert config.tables.embedding_dim == 16, "another scheme starts from its own defaults"
    assert [f.encoding for f in config.features if f.kind == "categorical"] == ["hash", "hash"]
    assert config.evaluation.level == 0.9
    same = load_experiment(
        write("same.yaml", {"extends": "base.yaml", "tables": {"scheme": "hash", "budget": "5%"}})
    )
    assert (same.tables.embedding_dim, same.tables.budget) == (8, "5%")


def test_extends_in_a_circle(write: Callable[..., Path]) -> None:
    write("a.yaml", {"extends": "b.yaml"})
    with pytest.raises(ConfigError, match=r"\S*\.yaml: `extends` goes round in a circle"):
        load_experiment(write("b.yaml", {"extends": "a.yaml"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], "set: must map dotted keys to values"),
        ({"training.epoch": 1}, "training.epoch: unknown key .* did you mean 'epochs'"),
        ({"features.transform": "log"}, "features.1.transform: unknown key"),
        ({"features.vocabulary": 5}, "features.vocabulary: must map keys of a feature to values"),
        ({"training.epochs.x": 1}, "training.epochs: Input should be a valid integer"),
        ({"name.x": 1}, "name.x: not a key that can be set"),
        ({"name.x.y": 1}, "name.x.y: not a key that can be set"),
        ({"tables.": 1}, "tables.: not a key that can be set"),
    ],
)
def test_settings_that_cannot_be(write: Callable[..., Path], settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"s\.yaml: {message}"):
        load_experiment(write("s.yaml", RAW | {"set": settings}))


def test_replace(write: Callable[..., Path]) -> None:
    config = parse_experiment(RAW, "F")
    changed = config.replace(
        {
            "name": "b@30%",
            "tables.budget": "30%",
            "training.table_lr": 0.2,
            "features.vocabulary": {"encoding": "vocabulary", "min_count": 3},
        }
    )
    assert (changed.name, changed.tables.budget, changed.training.table_lr) == ("b@30%", "30%", 0.2)
    assert [getattr(f, "min_count", None) for f in changed.features] == [None, 3, 3]
    assert config == parse_experiment(RAW, "F"), "the original stays"
    assert config.replace({}) == config
    with pytest.raises(ConfigError, match=r"full: training\.epoch: unknown key"):
        config.replace({"training.epoch": 1}, where="full")
    assert [c.name for c in with_budgets([config], ["10%", "3%"])] == ["a@10%", "a@3%"]


def test_the_digest_is_of_what_a_run_depends_on() -> None:
    config, prepared = parse_experiment(RAW, "F"), Path("/somewhere/log-1")
    digest = config.digest(prepared)
    assert len(digest) == 16
    assert parse_experiment(dict(reversed(RAW.items())), "G").digest(prepared) == digest
    assert parse_experiment(config.model_dump(mode="json"), "G").digest(Path("/elsewhere/log-1")) == digest
    free = {"name": "b", "evaluation.replicates": 500, "tuning.trials": 9}
    assert config.replace(free).digest(prepared) == digest
    for key, value in [("training.seed", 1), ("tables.budget", "11%"), ("features.min_count", 2)]:
        assert config.replace({key: value}).digest(prepared) != digest
    assert config.digest(Path("/somewhere/log-2")) != digest


def test_the_digest_is_the_same_in_another_process() -> None:
    code = (
        "import sys, json; from pathlib import Path; from recsys.config import parse_experiment;"
        "print(parse_experiment(json.loads(sys.argv[1]), 'F').digest(Path('log-1'))); print('torch' in sys.modules)"
    )
    config = parse_experiment(RAW, "F")
    command = [sys.executable, "-P", "-c", code, config.model_dump_json()]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert lines == [config.digest(Path("log-1")), "False"]


def test_a_configuration_is_frozen() -> None:
    config: Any = parse_experiment(RAW, "F")
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3
    assert isinstance(config, ExperimentConfig)


def test_a_vocabulary_is_found_beside_the_file_that_names_it(write: Callable[..., Path]) -> None:
    feature = {"kind": "categorical", "names": ["c"], "vocabulary": "v.txt"}
    path = write("a.yaml", RAW | {"features": [feature]})
    assert load_experiment(path).features[0].vocabulary == path.parent / "v.txt"


def test_ids_to_keep_and_first_weights_are_found_beside_the_file_that_names_them(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "w.safetensors").touch()
    feature = {"kind": "categorical", "names": ["c"], "keep": "kept"}
    path = write("a.yaml", RAW | {"features": [feature], "training": {"start": "w.safetensors"}})
    config = load_experiment(path)
    assert (config.features[0].keep, config.training.start) == (tmp_path / "kept", tmp_path / "w.safetensors")
    settings = {"features.keep": "own", "training.start": "w.safetensors"}
    config = load_experiment(write("sub/b.yaml", {"extends": "../a.yaml", "set": settings}))
    assert config.features[0].keep == tmp_path / "sub" / "own"
    assert config.training.start == tmp_path / "sub" / "w.safetensors"
    assert parse_experiment(config.model_dump(mode="json"), "again") == config
    with pytest.raises(
        ConfigError, match=r"a\.yaml: training\.start: .*v\.safetensors is no file; did you mean .*w\.s"
    ):
        load_experiment(write("a.yaml", RAW | {"training": {"start": "v.safetensors"}}))


def test_the_digest_is_of_the_content_of_first_weights(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_bytes(b"weights")
    prepared = Path("log-1")
    one, other = (parse_experiment(RAW, "F").replace({"training.start": str(file)}) for file in files)
    digest = one.digest(prepared)
    assert digest == other.digest(prepared) != parse_experiment(RAW, "F").digest(prepared)
    files[0].write_bytes(b"others!")
    assert one.digest(prepared) != digest
    files[0].unlink()
    with pytest.raises(ConfigError, match=rf"training\.start: {files[0]}: cannot be read \(No such file"):
        one.digest(prepared)
    kept = parse_experiment(RAW, "F").replace({"features.keep": "somewhere"})
    assert kept.digest(prepared) == parse_experiment(RAW, "F").digest(prepared), (
        "the prepared folder's name tells"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": {"item_id": 4}}, r"the file: tables\.widths lacks tags: give every feature a width"),
        (
            {"widths": {"item_id": 4, "tags": 4, "x": 4}},
            r"the file: tables\.widths names x, but only these features have tables of their own: item_id, tags",
        ),
        (
            {"widths": {"item_id": 4, "tags": 9}},
            "tables: widths: feature 'tags': width 9 is none of 0, 4, 8,",
        ),
    ],
)
def test_widths_that_do_not_fit_the_features(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"F: {message}"):
        parse_experiment(RAW | {"tables": {"scheme": "compact", **settings}}, "F")


def test_a_history_needs_no_width() -> None:
    raw = RAW | {
        "data": RAW["data"] | {"user": "u", "time": "t", "split": {"by": "time"}},
        "features": [
            {"kind": "categorical", "names": ["item_id"]},
            {"kind": "sequence", "name": "seen", "column": "item_id", "like": "item_id"},
        ],
        "model": {"name": "din", "interests": [{"target": "item_id", "history": "seen"}]},
        "tables": {"scheme": "compact", "widths": {"item_id": 4}},
    }
    assert parse_experiment(raw, "F").tables.widths == {"item_id": 4}
    raw["tables"]["widths"]["seen"] = 4
    with pytest.raises(ConfigError, match=r"names seen, but only these .* own: item_id"):
        parse_experiment(raw, "F")


def test_keep_is_set_for_every_categorical_feature() -> None:
    config = parse_experiment(RAW, "F").replace({"features.keep": "/kept"})
    assert [str(getattr(feature, "keep", None)) for feature in config.features] == ["None", "/kept", "/kept"]
    with pytest.raises(ConfigError, match=r"settings: features\.1: `keep` chooses from the vocabulary"):
        config.replace({"features.encoding": "hash"})


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['touch owned']", "!!python/name:os.system", "${oc.env:HOME}"]
)
def test_no_text_in_a_config_is_ever_run(write: Callable[..., Path], tmp_path: Path, text: str) -> None:
    """There are no expressions: a tag is refused, and a value is the text it is."""
    path = write("a.yaml", {key: value for key, value in RAW.items() if key != "name"})
    path.write_text(path.read_text() + f"\nname: {text}\n")
    with pytest.raises(ConfigError, match=r"not YAML|name: "):
        load_experiment(path)
    assert not (tmp_path / "owned").exists()
