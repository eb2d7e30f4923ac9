"""Checkpoints of a run: what is kept, what is refused, and stores that do not answer."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys.config import ExperimentConfig
from recsys.config.experiment import CheckpointConfig
from recsys.training import train as train_module
from recsys.training.loop import Watch
from recsys.training.mirror import Mirror
from recsys.training.run import run_folder
from recsys.training.store import listed, names_in
from recsys.training.train import train
from recsys_cython_ext.files import locked
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed import manifest
from recsys_tables.distributed.manifest import CheckpointError, OtherVersion, read_checkpoint_manifest

Configure = Callable[..., ExperimentConfig]


class Interrupted(Exception):
    pass


def after(steps: int, warned: list[str] | None = None) -> Watch:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Interrupted

    return Watch(step=step, warn=[].append if warned is None else warned.append)


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    return configure(
        {
            "training.epochs": 1,
            "training.batch_size": 512,
            "job.checkpoint.every_steps": 2,
            "job.checkpoint.keep": 3,
        }
    )


@pytest.fixture(scope="module")
def begun(config: ExperimentConfig, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run that is interrupted; it is not to be written to."""
    runs = tmp_path_factory.mktemp("begun")
    with pytest.raises(Interrupted):
        train(config, prepared, runs, after(9))
    return runs


@pytest.fixture
def runs(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "runs"))


def checkpoints_of(config: ExperimentConfig, prepared: Prepared, runs: Path) -> Path:
    return run_folder(config, prepared, runs) / "checkpoints"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copies_of(config: ExperimentConfig, prepared: Prepared, url: Path) -> Path:
    """Return the run's own folder below a URL."""
    return run_folder(config, prepared, url)


def rewrite_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As another program would have written it: with a checksum that is right."""
    manifest = read_checkpoint_manifest(folder).model_copy(deep=True)
    change(manifest.about["state"])
    write_manifest(manifest, folder / "manifest.json")


# ---- what is refused


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model.hidden": [8]}),
    ("optimiser", {"training.dense_optimizer": "sgd"}),
    ("table optimiser", {"training.table_optimizer": "sgd"}),
    ("scheme", {"tables.embedding_dim": 4}),
    ("seed", {"training.seed": 1}),
]


@pytest.mark.parametrize("settings", [other for _, other in OTHERS], ids=[name for name, _ in OTHERS])
def test_checkpoints_of_another_configuration_are_refused_and_left(
    config: ExperimentConfig, prepared: Prepared, runs: Path, settings: dict[str, Any]
) -> None:
    """They lie in another folder, and get here only if somebody puts them here."""
    other = config.replace(settings)
    target = checkpoints_of(other, prepared, runs)
    target.parent.mkdir(parents=True)
    checkpoints_of(config, prepared, runs).rename(target)
    before = content(target)
    with pytest.raises(
        CheckpointError, match=r"steps-\d+: its config is \w+, and \w+ here; restore .* or delete"
    ):
        train(other, prepared, runs)
    assert content(target) == before


@pytest.mark.parametrize("version", ["HASH_VERSION", "FORMAT_VERSION"])
def test_checkpoints_of_another_version_are_refused_and_left(
    config: ExperimentConfig, prepared: Prepared, runs: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """They are not damaged: an older program may go on from them."""
    before = content(checkpoints_of(config, prepared, runs))
    monkeypatch.setattr(manifest, version, 99)
    with pytest.raises(OtherVersion, match=rf"{version.lower()} \d+, but this program reads 99"):
        train(config, prepared, runs)
    assert content(checkpoints_of(config, prepared, runs)) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("best_steps"), "best_steps"),
        (lambda state: state.pop("loss_sum"), "loss_sum"),
        (lambda state: state.update(lanes=64), "lanes"),
    ],
    ids=["lost", "default", "more"],
)
def test_a_state_of_another_version_is_refused_and_left(
    config: ExperimentConfig, prepared: Prepared, runs: Path, change: Any, named: str
) -> None:
    """Also where what it lacks has a default: going on from that would be another run."""
    root = checkpoints_of(config, prepared, runs)
    for name in names_in(root):
        rewrite_state(root / name, change)
    before = content(root)
    with pytest.raises(
        OtherVersion,
        match=rf"steps-\d+: its state is of another version \({named}\); delete {root.parent} to train from",
    ):
        train(config, prepared, runs)
    assert content(root) == before


def test_a_run_that_another_job_is_at_work_on_is_refused(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `run_folder` has beside it is held by another job, as another process would."""
    monkeypatch.setattr(train_module, "LOCK_SECONDS", 0.2)
    folder = run_folder(config, prepared, tmp_path)
    folder.parent.mkdir(parents=True)
    with (
        locked(folder.with_name(f".{folder.name}.lock")),
        pytest.raises(
            ValueError, match=rf"{folder}: another job is at work on this run; wait for it, or stop it"
        ),
    ):
        train(config, prepared, tmp_path)
    train(config, prepared, tmp_path)


def test_a_prepared_set_that_is_damaged_is_named(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(prepared.path, tmp_path / prepared.path.name))
    shard = next(copy.glob("train/*"))
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{shard.name}: missing or damaged; delete .* and prepare again"):
        train(config, Prepared.open(copy), tmp_path / "runs")


def test_a_table_that_is_not_there_cannot_be_sharded_otherwise(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    wrong = config.replace({"job.sharding.tables": {"user": "row_wise"}})
    with pytest.raises(
        ValueError, match=r"sharding names tables user; there are user_id/full, item_id/full, tags/full"
    ):
        train(wrong, prepared, tmp_path)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_without_rows_is_named(config: ExperimentConfig, log: Path, tmp_path: Path, part: str) -> None:
    pq.write_table(pq.read_table(log).slice(0, 40), tmp_path / "log.parquet")
    split = {"by": "random", "train": 0.5, "validation": 0.4999, "test": 0.4999} | {part: 0.0001}
    data = config.data.model_copy(
        update={"path": tmp_path / "log.parquet", "split": config.data.split.model_validate(split)}
    )
    with pytest.raises(
        ValueError, match=rf"the {part} part gets none of 40 rows; change the shares or bring more"
    ):
        prepare(data, config.features, tmp_path / "prepared")


# ---- what is damaged


@pytest.mark.parametrize("harm", ["cut", "flip", "lost", "manifest"])
def test_what_is_damaged_is_passed_over_with_its_name(
    config: ExperimentConfig, prepared: Prepared, runs: Path, harm: str
) -> None:
    root = checkpoints_of(config, prepared, runs)
    names = names_in(root)
    file = root / names[-1] / ("manifest.json" if harm == "manifest" else "rank-0.safetensors")
    data = bytearray(file.read_bytes())
    if harm == "lost":
        file.unlink()
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2])
    warned: list[str] = []
    began: list[int] = []
    watch = Watch(warn=warned.append, progress=lambda _, done, *__: began.append(done))
    train(config, prepared, runs, watch)
    assert len(warned) == 1
    assert str(file) in warned[0]
    assert warned[0].endswith(": going on from an older checkpoint")
    assert began[0] == int(names[-2].removeprefix("steps-")) + 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_old_one_that_gets_damaged_does_not_stop_a_run(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path, mirrored: bool
) -> None:
    """It goes, with its name; a copy of it that is whole stays, and comes back when it is still wanted."""
    config = config.replace({"job.checkpoint.every_steps": 1})  # a save that failed is told by the next one
    if mirrored:
        config = config.replace({"job.checkpoint.url": f"file://{tmp_path}/mirror"})
    root = checkpoints_of(config, prepared, tmp_path)
    warned: list[str] = []
    hurt: list[Path] = []
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == 7:  # the best evaluation's
            hurt.extend(root / item.name / "manifest.json" for item in listed(root.parent) if item.best)
            hurt[0].write_text("{}")
        if done == 9:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, prepared, tmp_path, Watch(step=step, warn=warned.append))
    (file,) = hurt
    assert len(warned) == 1
    assert str(file) in warned[0]
    assert warned[0].endswith(": going on without it")
    assert file.parent.name not in names_in(root)
    assert "steps-0000000008" in names_in(root)
    began: list[int] = []
    train(config, prepared, tmp_path, Watch(progress=lambda _, done, *__: began.append(done)))
    assert began[0] == (9 if mirrored else 1), "the best evaluation is lost where there is no copy"


def test_training_begins_anew_where_nothing_is_whole(
    config: ExperimentConfig, prepared: Prepared, runs: Path
) -> None:
    root = checkpoints_of(config, prepared, runs)
    for file in root.glob("*/manifest.json"):
        file.write_text("{}")
    warned: list[str] = []
    began: list[int] = []
    train(config, prepared, runs, Watch(warn=warned.append, progress=lambda _, done, *__: began.append(done)))
    assert warned[-1] == f"{root}: no whole checkpoint is left; training begins anew"
    assert began[0] == 1


def test_a_kill_while_deleting_leaves_nothing_that_looks_damaged(
    config: ExperimentConfig, prepared: Prepared, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rmtree` may be stopped anywhere: here before the first file."""
    root = checkpoints_of(config, prepared, runs)
    monkeypatch.setattr("recsys.training.store.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(Interrupted):
        train(config, prepared, runs, after(1))
    assert all(item.damage is None for item in listed(root.parent))


# ---- copies at a URL


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/x", "file:///proc/none/x"],
    ids=["port", "path"],
)
def test_a_store_that_does_not_answer_is_named(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path, url: str
) -> None:
    with pytest.raises(
        (OSError, ValueError),
        match=rf"job\.checkpoint\.url {url}/small-\w+/seed-0: .*see that it can be reached",
    ):
        train(config.replace({"job.checkpoint.url": url}), prepared, tmp_path)


def test_what_is_kept_is_kept_at_the_url_too(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    mirrored = config.replace({"job.checkpoint.url": f"file://{tmp_path}/mirror", "job.checkpoint.keep": 1})
    with pytest.raises(Interrupted):
        train(mirrored, prepared, tmp_path / "runs", after(9))
    root = checkpoints_of(mirrored, prepared, tmp_path / "runs")
    copies = copies_of(mirrored, prepared, tmp_path / "mirror")
    assert Mirror(f"file://{copies}").names() == names_in(root)
    assert content(copies) == content(root)


def test_runs_share_a_url_with_each_other_and_with_other_files(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    one = config.replace({"job.checkpoint.url": f"file://{tmp_path}/mirror/"})
    other = one.replace({"training.seed": 1})
    copies = copies_of(one, prepared, tmp_path / "mirror")
    foreign = [tmp_path / "mirror" / "notes.txt", copies / "notes.txt"]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not ours")
    with pytest.raises(Interrupted):
        train(one, prepared, tmp_path / "runs", after(9))
    before = content(copies)
    assert len(before) > 2
    train(other, prepared, tmp_path / "runs")
    assert content(copies) == before
    shutil.rmtree(tmp_path / "runs")
    began: list[int] = []
    train(one, prepared, tmp_path / "runs", Watch(progress=lambda _, done, *__: began.append(done)))
    assert began[0] == 9
    assert sorted(content(tmp_path / "mirror")) == sorted(
        str(file.relative_to(tmp_path / "mirror")) for file in foreign
    )


def test_what_a_url_lacks_is_copied_with_the_next_one(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    """A URL that was named later: without its best evaluation's, the newest would be worth nothing."""
    local = config.replace({"job.checkpoint.keep": 1})
    with pytest.raises(Interrupted):
        train(local, prepared, tmp_path / "runs", after(7))
    mirrored = local.replace({"job.checkpoint.url": f"file://{tmp_path}/mirror"})
    with pytest.raises(Interrupted):
        train(mirrored, prepared, tmp_path / "runs", after(3))
    root = checkpoints_of(mirrored, prepared, tmp_path / "runs")
    assert len(names_in(root)) == 2, "the newest one and the best"
    assert content(copies_of(mirrored, prepared, tmp_path / "mirror")) == content(root)
    shutil.rmtree(tmp_path / "runs")
    began: list[int] = []
    train(mirrored, prepared, tmp_path / "runs", Watch(progress=lambda _, done, *__: began.append(done)))
    assert began[0] == 9


def test_a_copy_that_was_interrupted_is_none(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "steps-1").mkdir(parents=True)
    (tmp_path / "mirror" / "steps-1" / "rank-0.safetensors").write_bytes(b"half")
    mirror = Mirror(f"file://{tmp_path}/mirror")
    assert mirror.names() == []
    mirror.keep(())
    assert list((tmp_path / "mirror").iterdir()) == []


@pytest.mark.parametrize(
    "url", ["reference::file:///x.json", "simplecache::http://host/x", "github://a:b@main"]
)
def test_copies_go_to_plain_urls_only(monkeypatch, url):
    called = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", called.append)
    with pytest.raises(ValidationError, match=r"chained URLs|the protocol 'github' is not opened"):
        CheckpointConfig(url=url)
    with pytest.raises(OSError, match=r"job\.checkpoint\.url .*(chained URLs|is not opened)"):
        Mirror(url)
    assert not called
