"""Training on Ray: as many lost workers, nodes and drivers as may be, the weights are those of an undisturbed run.

What starts workers is marked slow. Processes are ended by their numbers, and no Ray is left running.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import ExperimentConfig
from recsys.training.loop import Watch
from recsys.training.run import Run, run_folder
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
from recsys.training import ray_job  # noqa: E402
from recsys.training.ray_job import Workers, WorkersLost, require_room, session, train_on_ray  # noqa: E402
from recsys_pipelines.preparation.session import program  # noqa: E402

Configure = Callable[..., ExperimentConfig]
RESULTS = ("validation", "test", "history", "fields", "skipped_batches")


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # Ray looks at workers this often
    monkeypatch.setattr(ray_job, "PROGRESS_SECONDS", 0.05)


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    """Several seconds of training, saved often."""
    return configure(
        {
            "model.dropout": 0.2,
            "training.batch_size": 64,
            "training.epochs": 3,
            "training.patience": 9,
            "training.evaluations_per_epoch": 1,
            "job.checkpoint.every_steps": 10,
        }
    )


@pytest.fixture
def two() -> Iterator[Workers]:
    workers = Workers(2, cpus=1)
    with session(workers):
        yield workers
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def whole(config: ExperimentConfig, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train an undisturbed run of two workers."""
    workers = Workers(2)
    with session(workers):
        return train_on_ray(config, prepared, tmp_path_factory.mktemp("whole"), workers)


def require_same(a: Run, b: Run) -> None:
    """Metrics, predictions and weights, to the bit, and nothing temporary beside them."""
    assert {key: a.metrics[key] for key in RESULTS} == {key: b.metrics[key] for key in RESULTS}
    assert a.predictions().equals(b.predictions())
    saved = [Checkpoint(run.path / "checkpoint") for run in (a, b)]
    assert saved[0].names == saved[1].names
    assert all(saved[0].read(name).equal(saved[1].read(name)) for name in saved[0].names)
    for run in (a, b):
        assert sorted(path.name for path in run.path.parent.iterdir()) == ["seed-0"]
        names = {path.name for path in run.path.iterdir() if "tfevents" not in path.name}
        files = {"config.yaml", "features", "checkpoint", "sharding.json", "predictions.parquet"}
        assert names == files | {"metrics.json"}


def training_processes(of: int) -> list[psutil.Process]:
    """Those of Ray Train's workers among the descendants of a process."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def at(step: int, work: Callable[[], None], warned: list[str]) -> Watch:
    """Do `work` once, when the first epoch has come to a step."""
    todo = [work]

    def progress(stage: str, finished: int, of: int, detail: str) -> None:
        if todo and finished >= step:
            todo.pop()()

    return Watch(progress=progress, warn=warned.append)


# ---- before Ray


def test_other_numbers_of_workers_are_refused_before_ray_starts(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 ranks cannot share 64 lanes; 2 or 4 can"):
        Workers(3)
    with pytest.raises(ValueError, match="CPUs per worker must be above 0, got 0"):
        Workers(2, cpus=0)
    (tmp_path / "not.whl").write_text("no archive")
    with pytest.raises(ValueError, match=r"not\.whl: not a wheel; build one"):
        Workers(2, wheel=tmp_path / "not.whl")
    file = written(tmp_path, log)
    found = CliRunner().invoke(app, ["train", str(file), "--workers", "6"])
    assert isinstance(found.exception, ValueError)
    assert "6 ranks cannot share 64 lanes; 4 or 8 can" in str(found.exception)
    assert not ray.is_initialized()


def test_folders_that_a_worker_does_not_see_are_named(tmp_path: Path) -> None:
    ray_job._require_alike(program(), tmp_path)
    with pytest.raises(ValueError, match=r"lost: the worker on .* does not see this folder.*--runs"):
        ray_job._require_alike(program(), tmp_path, tmp_path / "lost")


def test_local_training_needs_no_ray(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
sys.modules["ray"] = None
from recsys.cli import app
app(sys.argv[1:])
"""
    file = written(tmp_path, log)
    command = [sys.executable, "-W", "ignore", "-c", code, "train", str(file), "--json"]
    alone = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["ranks"] == 1
    monkeypatch.setitem(sys.modules, "recsys.training.ray_job", None)
    without = CliRunner().invoke(app, ["train", str(file), "--workers", "2"])
    assert "need Ray: pip install 'recsys-embedding-tables[ray]'" in str(without.exception)


# ---- places for workers


def test_what_a_cluster_lacks_is_said_and_not_waited_for(
    two: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "PLACEMENT_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"they need 4 CPUs \(2 in the cluster, 2 of them free\)"):
        require_room(Workers(4, cpus=1))

    class Job:  # defined here, so that it is sent whole: workers do not see this folder
        def ready(self) -> bool:
            return True

    other = ray.remote(num_cpus=1.5)(Job).remote()
    ray.get(other.ready.remote())
    with pytest.raises(ValueError, match=r"they need 2 CPUs \(2 in the cluster, 0\.5 of them free\)"):
        require_room(two)
    ray.kill(other)
    monkeypatch.setattr(ray_job, "PLACEMENT_SECONDS", 30)
    require_room(two)


@pytest.mark.parametrize("call", ["placement_group", "remove_placement_group"])
def test_a_node_that_is_lost_while_room_is_waited_for_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def lost(*_: object) -> None:
        raise Exception("pages\nof Ray")  # which has no other class for it

    class Group:
        def wait(self, seconds: float) -> bool:
            return True

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray.util, "placement_group", lambda _: Group())
    monkeypatch.setattr(ray.util, call, lost)
    with pytest.raises(ValueError, match="node that it was started from is lost; the same command goes on"):
        require_room(Workers(2))


# ---- faults


@pytest.mark.slow
def test_a_killed_worker_costs_no_more_than_time(
    config: ExperimentConfig, prepared: Prepared, whole: Run, two: Workers, tmp_path: Path
) -> None:
    warned: list[str] = []

    def kill() -> None:
        found = training_processes(os.getpid())
        assert len(found) == 2
        found[-1].kill()

    again = train_on_ray(config, prepared, tmp_path, two, at(25, kill, warned))
    require_same(again, whole)
    assert [text for text in warned if "starting all workers again" in text and "(1 of 3 times)" in text]
    assert again.metrics["ranks"] == 2


@pytest.mark.slow
def test_workers_that_are_always_lost_end_the_job(
    config: ExperimentConfig, prepared: Prepared, two: Workers, tmp_path: Path
) -> None:
    def kill() -> None:
        training_processes(os.getpid())[0].kill()

    with pytest.raises(WorkersLost, match="given up after 0 new starts: the same command goes on"):
        train_on_ray(config, prepared, tmp_path, Workers(2, max_failures=0), at(5, kill, []))
    assert not list(tmp_path.glob("*/.*.ray"))


@pytest.mark.slow
def test_a_mistake_is_said_once_and_not_tried_again(
    configure: Configure, prepared: Prepared, two: Workers, tmp_path: Path
) -> None:
    wild = configure({"training.table_lr": 1e30, "training.dense_lr": 1e30, "training.batch_size": 64})
    warned: list[str] = []
    with pytest.raises(ValueError, match=r"epoch 0, batch .*: the training loss is"):
        train_on_ray(wild, prepared, tmp_path, two, Watch(warn=warned.append))
    unseen = Prepared(tmp_path / "elsewhere" / prepared.path.name, prepared.manifest)
    with pytest.raises(ValueError, match=r"elsewhere/.*the worker on .* does not see this folder"):
        train_on_ray(configure(), unseen, tmp_path, two, Watch(warn=warned.append))
    assert warned == []


@pytest.mark.slow
def test_a_killed_driver_goes_on_by_the_same_command(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-W", "ignore", "-m", "recsys.cli", "train", str(file)]
    command += ["--on", str(prepared.path), "--workers", "2", "--json"]
    folder = run_folder(config, prepared, tmp_path / "runs")
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(folder.glob("checkpoints/steps-*[0-9]"))) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert psutil.wait_procs(started, timeout=120)[1] == [], "Ray ends with the driver that started it"
    assert not (folder / "metrics.json").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(folder)
    assert "epoch 3.00" in done.stderr
    assert "samples/s" in done.stderr
    require_same(Run.open(folder), whole)


@pytest.mark.slow
def test_after_the_last_node_was_lost_the_same_command_goes_on(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-W", "ignore", "-m", "recsys.cli", "train", str(file)]
    command += ["--on", str(prepared.path), "--workers", "2", "--json"]
    folder = run_folder(config, prepared, tmp_path / "runs")
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(list(folder.glob("checkpoints/steps-*[0-9]"))) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    node = [process for process in psutil.Process(driver.pid).children() if process.name() == "raylet"]
    assert node
    for process in [*node, *training_processes(driver.pid)]:
        process.kill()
    text, said = driver.communicate(timeout=300)
    assert driver.returncode in (1, 2), said  # with 1 it was Ray that ended the process
    if driver.returncode == 2:
        error = json.loads(text)["error"]
        assert re.search(r"node that it was started from is lost|0 in the cluster", error)
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    require_same(Run.open(folder), whole)


@pytest.mark.slow
def test_a_lost_node_is_replaced_where_another_has_room_and_else_named(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        workers = Workers(2, cpus=1, address=cluster.address)
        with session(workers):
            warned: list[str] = []
            lose = lambda: cluster.remove_node(second, allow_graceful=False)  # noqa: E731
            with pytest.raises(ValueError, match=r"they need 2 CPUs \(1 in the cluster, 1 of them free\)"):
                train_on_ray(config, prepared, tmp_path, workers, at(25, lose, warned))
            third = cluster.add_node(num_cpus=1)

            def replace() -> None:
                cluster.add_node(num_cpus=1)
                cluster.remove_node(third, allow_graceful=False)

            again = train_on_ray(config, prepared, tmp_path, workers, at(60, replace, warned))
        assert len(warned) >= 2
        require_same(again, whole)
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_workers_of_two_nodes_run_the_wheel(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    """In a process of its own: this one's folders would come before the wheel."""
    from ray.cluster_utils import Cluster

    root = Path(__file__).parents[3]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    code = f"""
import json, ray, recsys, recsys_cython_ext
from pathlib import Path
from recsys.config import load_experiment
from recsys.training.ray_job import Workers, session, train_on_ray
from recsys_pipelines.preparation.prepared import Prepared

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where():
    import recsys, recsys_cython_ext._hashing, time
    time.sleep(2)  # so that each node gets one
    return ray.get_runtime_context().get_node_id(), recsys.__path__[0], recsys_cython_ext._hashing.__file__

import sys
workers = Workers(2, cpus=1, address=sys.argv[1], wheel=Path({str(wheel)!r}))
with session(workers):
    found = ray.get([where.remote(), where.remote()])
    small, ready = load_experiment("small.yaml"), Prepared.open({str(prepared.path)!r})
    run = train_on_ray(small, ready, Path("runs"), workers)
print(json.dumps([found, str(run.path)]))
"""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        command = [sys.executable, "-P", "-W", "ignore", "-c", code, cluster.address]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    found, path = json.loads(done.stdout)
    assert len({node for node, *_ in found}) == 2
    assert all("py_modules_files" in file for _, *files in found for file in files), found
    require_same(Run.open(Path(path)), whole)


def written(folder: Path, log: Path) -> Path:
    """Write a short experiment as a file."""
    raw = {
        "name": "short",
        "data": {"source": "table", "path": str(log)},
        "features": [{"kind": "categorical", "names": ["user_id", "item_id"]}],
        "tables": {"scheme": "full", "embedding_dim": 4},
        "model": {"name": "fm"},
        "training": {"batch_size": 512, "epochs": 1},
    }
    file = folder / "short.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file
