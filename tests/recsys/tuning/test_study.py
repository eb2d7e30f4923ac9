"""Searches over settings: what is drawn, what is kept, and how a search goes on after it was killed."""

import builtins
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli import app
from recsys.config import ConfigError, ExperimentConfig, Range, load_experiment
from recsys.reports.pictures.tuning import value_of
from recsys.reports.tuning import best_yaml, summary, trials_sheet, write_tuning
from recsys.tuning.study import Study, TuningResult, opened
from recsys.tuning.trials import (
    NothingFits,
    Trial,
    TrialStore,
    candidates,
    random_draws,
    run_trial,
    train_trial,
)
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare

Configure = Callable[..., ExperimentConfig]
Open = Callable[..., Study]
SPACE = {"training.table_lr": [0.02, 0.05, 0.2], "features.min_count": [1, 3]}
RANGE = {"low": 0.01, "high": 1.0, "log": True}


@pytest.fixture
def study(configure: Configure, tmp_path: Path) -> Iterator[Open]:
    """Open studies whose runs and prepared data are kept in the test's folder."""
    with ExitStack() as stack:

        def make(
            space: dict[str, Any] | None = None,
            how: Any = "random",
            most: int | None = 4,
            settings: dict[str, Any] | None = None,
            asha: bool = True,
        ) -> Study:
            stack.close()
            config = configure(settings, tuning={"space": SPACE if space is None else space})

            def prepared(changed: ExperimentConfig) -> Any:
                return prepare(changed.data, changed.features, tmp_path / "prepared")

            return stack.enter_context(opened(config, prepared, tmp_path / "runs", how, most, asha))

        yield make


def told(epoch: float, logloss: float) -> dict[str, Any]:
    return {"epoch": epoch, "rows": int(1000 * epoch), "validation_logloss": logloss, "validation_auc": 0.5}


def settings_of(study: Study) -> list[dict[str, Any]]:
    return [trial.settings for trial in study.trials]


def finish(study: Study, logloss: Callable[[Trial], float]) -> None:
    """Every trial of a study, without Ray."""
    while (trial := study.next()) is not None:
        study.note(trial, told(2.0, logloss(trial)))
        study.close(trial, None)


def test_a_seed_gives_the_same_random_trials_and_another_others(study: Open) -> None:
    first = settings_of(study(how="random"))
    assert first[0] == {}
    assert settings_of(study(how="random")) == first
    assert settings_of(study(how="random", most=3)) == first[:3]
    assert settings_of(study(how="random", settings={"tuning.seed": 1})) != first


def test_a_grid_is_every_setting_once_after_the_files_own(study: Open) -> None:
    found = settings_of(study(how="grid", most=None))
    values = [(s["training.table_lr"], s["features.min_count"]) for s in found[1:]]
    # 0.05 and 1 are the file's own
    assert values == [(a, b) for a in (0.02, 0.05, 0.2) for b in (1, 3) if (a, b) != (0.05, 1)]


def test_ranges_are_drawn_within_their_ends_and_evenly_on_their_scale() -> None:
    space = {"a": Range(low=0.01, high=1, log=True), "b": Range(low=-1, high=3), "c": ("x", "y")}
    found = [settings for settings, _ in zip(random_draws(space, 0), range(2000), strict=False)]
    assert all(0.01 <= s["a"] <= 1 and -1 <= s["b"] <= 3 and s["c"] in "xy" for s in found)
    for key, middle in (("a", 0.1), ("b", 1.0)):
        assert abs(sum(s[key] < middle for s in found) - 1000) < 5 * 2000**0.5 / 2


def test_trials_train_with_the_seed_of_the_search_and_share_prepared_data(study: Open) -> None:
    found = study(how="grid", most=None)
    seeds = {candidate.config.training.seed for candidate in found.candidates.values()}
    assert seeds == {1000}
    assert len({candidate.prepared for candidate in found.candidates.values()}) == 2  # by min_count


def test_settings_over_the_budget_are_not_drawn(study: Open) -> None:
    # hashed tables take any budget, and a full table of twice the width does not
    space = {"tables.embedding_dim": [8, 4096]}
    found = study(space, "grid", None, {"tables.budget": "100%"})
    assert [s.get("tables.embedding_dim", 8) for s in settings_of(found)] == [8]
    with pytest.raises(NothingFits, match="none of its settings fits the budget"):
        study(space, "grid", None, {"tables.budget": "1%"})


def test_optuna_is_guided_by_what_was_found(study: Open) -> None:
    space = {"training.table_lr": RANGE, "features.min_count": [1, 3]}
    found = study(space, "optuna", 40)
    finish(found, lambda trial: abs(math.log(trial.settings.get("training.table_lr", 1) / 0.1)))
    assert len(found.trials) == 40
    late = [s["training.table_lr"] for s in settings_of(found)[20:]]
    assert sum(0.05 < value < 0.2 for value in late) > 11  # of 20; by chance 6


def test_optuna_ends_when_nothing_new_is_left(study: Open) -> None:
    found = study(how="optuna", most=50)
    finish(found, lambda trial: 0.5)
    assert len(found.trials) == 6
    assert found.has_ended


@pytest.mark.parametrize("how", ["random", "grid", "optuna"])
def test_a_study_goes_on_from_what_was_kept(study: Open, how: str) -> None:
    first = study(how=how, most=5)
    ended, begun = first.next(), first.next()
    assert ended is not None
    assert begun is not None
    first.note(ended, told(1.0, 0.6))
    first.close(ended, None)
    first.note(begun, told(1.0, 0.7))

    second = study(how=how, most=5)
    assert second.trials[0] == ended
    assert second.next() == ended, "told to the scheduler again"
    again = second.next()
    assert again is not None
    assert (again.digest, again.history, again.end) == (begun.digest, [], None)
    assert not second.is_done


def test_a_finished_study_needs_no_ray_and_more_trials_go_on_from_it(study: Open) -> None:
    found = study(most=3)
    finish(found, lambda trial: 0.5)
    assert study(most=3).is_done
    more = study(most=5)
    assert not more.is_done
    assert [trial.is_done for trial in more.trials] == [True] * 3 + [False] * 2
    assert study(most=3, asha=False).is_done, "another study, of the same trials"


def test_a_failed_trial_is_tried_again_and_a_diverged_one_is_not(study: Open) -> None:
    found = study(most=3)
    for end in ("failed", "diverged", "stopped"):
        trial = found.next()
        assert trial is not None
        if end == "stopped":
            found.note(trial, told(1.0, 0.5))
        found.close(trial, end, "why")  # type: ignore[arg-type]
    assert found.has_ended
    again = study(most=3)
    assert [trial.end for trial in again.trials] == [None, "diverged", "stopped"]
    first, second = again.next(), again.next()
    assert [first, second] == [again.trials[0], again.trials[2]], "the diverged one has nothing to tell"


def test_evaluations_are_kept_once_and_say_how_a_trial_ended(study: Open) -> None:
    found = study(settings={"training.epochs": 4, "training.patience": 2})
    stopped, patient, whole = found.next(), found.next(), found.next()
    for trial, losses in ((stopped, [0.5, 0.6]), (patient, [0.5, 0.6, 0.7]), (whole, [0.9, 0.8, 0.7, 0.6])):
        assert trial is not None
        for epoch, loss in enumerate(losses):
            found.note(trial, told(epoch + 1.0, loss))
            found.note(trial, told(1.0, 0.1))
        found.close(trial, None)
        assert len(trial.history) == len(losses)
    assert [trial and trial.end for trial in (stopped, patient, whole)] == ["stopped", "finished", "finished"]


def test_the_test_rows_are_never_read(
    configure: Configure, prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = Rows.load.__func__  # type: ignore[attr-defined]

    def loaded(path: Path, split: str) -> Any:
        read.append(split)
        return original(Rows, path, split)

    monkeypatch.setattr(Rows, "load", loaded)
    history: list[dict[str, Any]] = []
    train_trial(configure(), prepared.path, history.append)
    assert sorted(read) == ["train", "validation"]
    assert 1 <= len(history) <= 4
    assert {"validation_auc", "validation_logloss", "rows", "train_loss", "epoch"} <= history[0].keys()
    assert not any(key.startswith(("share_", "memory_")) for key in history[0])


@pytest.mark.parametrize(
    ("space", "how", "most", "message"),
    [
        ({}, "random", 4, "nothing to tune.*tuning.space is empty"),
        ({"data.user": ["a"]}, "random", 4, "tuning.space.data.user: tuning may change"),
        ({"training.monitor": ["auc"]}, "random", 4, "tuning.space.training.monitor"),
        ({"training.table_lr": RANGE}, "grid", None, "a range, and a grid needs values"),
        (SPACE, "random", 1, "one trial is no tuning.*--trials"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    study: Open, space: dict[str, Any], how: str, most: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study(space, how, most)


def test_a_missing_optuna_is_said_with_its_cure(study: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("optuna"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "recsys.tuning.tpe", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'recsys-embedding-tables\[ray\]'"):
        study(how="optuna")


def test_a_damaged_record_is_named(study: Open) -> None:
    found = study()
    finish(found, lambda trial: 0.5)
    runs = found.folder.parents[1]
    for file in (runs / "trials" / f"{found.trials[1].digest}.json", found.folder / "study.json"):
        whole = file.read_text()
        file.write_text(whole[:40])
        with pytest.raises(ConfigError, match=f"{file.name}: damaged.*delete it"):
            study()
        file.write_text(whole)
    study()


def candidates_of(study: Study, tmp_path: Path) -> Any:
    config = study.config.replace({"tuning.trials": 3})
    return candidates(config, lambda changed: prepare(changed.data, changed.features, tmp_path / "prepared"))


def test_what_tune_has_trained_compare_does_not_train_again(
    study: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = study(most=3)
    finish(tuning, lambda trial: 0.1 * trial.number)

    def again(*_: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr("recsys.tuning.trials.train_trial", again)
    drawn = candidates_of(tuning, tmp_path)
    found = [run_trial(candidate, tmp_path / "runs") for candidate in drawn]
    assert [trial.digest for trial in found] == [trial.digest for trial in tuning.trials]
    assert [trial.history for trial in found] == [trial.history for trial in tuning.trials]


def test_what_compare_has_trained_tune_does_not_train_again(study: Open, tmp_path: Path) -> None:
    for candidate in candidates_of(study(most=3), tmp_path):
        run_trial(candidate, tmp_path / "runs")
    again = study(most=3)
    assert again.is_done
    assert all(trial.end == "finished" and trial.history for trial in again.trials)


def test_a_trial_that_was_stopped_is_trained_to_its_end_by_compare_and_stays_stopped_in_its_study(
    study: Open, tmp_path: Path
) -> None:
    """ASHA's word counts in its own study only; another one, and `compare`, train the trial from the beginning."""
    tuning = study(most=3)
    trial = tuning.next()
    assert trial is not None
    tuning.note(trial, {**told(0.1, 0.6), "rows": 5})
    tuning.close(trial, "stopped")
    assert study(most=3).trials[0].end == "stopped"
    assert study(most=4, asha=False).trials[0].end is None
    (first, *_) = candidates_of(tuning, tmp_path)
    whole = run_trial(first, tmp_path / "runs")
    assert whole.end == "finished"
    assert len(whole.history) > 1
    assert study(most=3).trials[0].history == whole.history, "more is known of it now"


def test_a_finished_record_is_not_written_over_by_one_that_is_not(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    store.write(Trial(0, "a", {}, [told(1.0, 0.5)], "finished"))
    store.write(Trial(0, "a", {}, [told(0.5, 0.6)]))
    kept = store.read("a")
    assert kept is not None
    assert (kept.end, len(kept.history)) == ("finished", 1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("[]", "Input should be a list of values, or a range"),
        ("{low: 1, high: 1}", "with low < high"),
        ("{low: 0, high: 1, log: true}", "low > 0 where it is log"),
        ("{low: 1, hihg: 2}", "or a range such as"),
        ("{low: -1, high: 1}", "tuning.space.training.table_lr: training.table_lr: Input should be greater"),
    ],
)
def test_choices_that_cannot_be_drawn_are_named(
    configure: Configure, tmp_path: Path, choices: str, message: str
) -> None:
    raw = configure().model_dump(mode="json", exclude_unset=True)
    raw["tuning"] = {"space": {"training.table_lr": yaml.safe_load(choices)}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_experiment(tmp_path / "a.yaml")
    raw["tuning"] = {"space": {"training.epochs": {"low": 1, "high": 3}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"training.epochs: Input should be a valid integer"):
        load_experiment(tmp_path / "a.yaml")


@pytest.fixture
def tuned(study: Open) -> TuningResult:
    """Four trials, one of each end, over a range, a list of lists and a key of features."""
    space = {"training.table_lr": RANGE, "model.hidden": [[8], [16, 8]], "features.min_count": [1, 3]}
    found = study(space, most=4)
    for place, end in enumerate((None, "stopped", "diverged", "failed")):
        trial = found.next()
        assert trial is not None
        if place < 2:
            found.note(trial, told(1.0, 0.5 - 0.1 * place))
            found.note(trial, told(2.0, 0.6 - 0.1 * place))
        found.close(trial, end, "" if place < 2 else f"reason {place}")  # type: ignore[arg-type]
    return found.result()


def test_a_result_is_sorted_and_names_what_diverged(tuned: TuningResult) -> None:
    assert [trial.number for trial in tuned.trials] == [1, 0, 2, 3]
    sheet = trials_sheet(tuned)
    assert [row[-1] for row in sheet.rows] == ["stopped early", "trained to the end", "diverged", "failed"]
    assert [row[1] for row in sheet.rows] == ["0.40000", "0.50000", "–", "–"]
    assert "Trial 2 diverged: reason 2." in sheet.note
    assert "4 trials (random, ASHA): 1 trained to the end, 1 stopped early, 1 diverged, 1 failed" in summary(
        tuned
    )
    assert "trial 1, logloss 0.40000 (0.50000 with the file's own)" in summary(tuned)
    json.dumps(tuned.to_dict())


def test_every_trial_diverged_is_an_error(study: Open) -> None:
    found = study(most=2)
    while (trial := found.next()) is not None:
        found.close(trial, "diverged", "the loss is nan")
    with pytest.raises(ConfigError, match="every trial diverged: the loss is nan"):
        found.result()


def test_the_page_stands_alone_and_the_best_settings_load(
    tuned: TuningResult, configure: Configure, tmp_path: Path
) -> None:
    source = tmp_path / "configs" / "small.yaml"
    source.parent.mkdir()
    raw = tuned.config.model_dump(mode="json", exclude_unset=True)
    source.write_text(yaml.safe_dump(raw))
    page = tmp_path / "out" / "tune.html"
    best = write_tuning(tuned, source, page)
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html
    assert best == tmp_path / "out" / "tune-best.yaml"
    assert load_experiment(best) == tuned.config.replace({**tuned.best.settings, "name": "small-tuned"})
    assert best_yaml(tuned, source, best) == best.read_text()


def test_the_value_of_a_key_that_features_differ_in_is_unknown(configure: Configure) -> None:
    config = configure()
    assert value_of(config, "model.hidden") == [16]
    assert value_of(config, "features.min_count") == 1
    assert value_of(config, "features.multivalued") is None  # tags are, users are not


def write_config(configure: Configure, path: Path, space: dict[str, Any], **training: Any) -> Path:
    raw = configure({f"training.{key}": value for key, value in training.items()}).model_dump(
        mode="json", exclude_unset=True
    )
    path.write_text(yaml.safe_dump(raw | {"tuning": {"space": space}}))
    return path


def arguments(config: Path, folder: Path, *more: str) -> list[str]:
    options = ["prepared", "runs", "report"]
    places = [folder / "prepared", folder / "runs", folder / "tune.html"]
    named = [part for name, place in zip(options, places, strict=True) for part in (f"--{name}", str(place))]
    return ["tune", str(config), *named, "--json", *more]


def test_the_command_says_what_is_wrong_with_a_space(configure: Configure, tmp_path: Path) -> None:
    config = write_config(configure, tmp_path / "a.yaml", {"training.table_rl": [1]})
    outcome = CliRunner().invoke(app, arguments(config, tmp_path))
    assert "did you mean 'table_lr'?" in str(outcome.exception)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["random", "grid", "optuna"])
def test_ray_trains_the_trials_and_json_is_all_of_standard_output(
    configure: Configure, tmp_path: Path, how: str
) -> None:
    space = {"training.table_lr": [0.01, 0.05, 3e30], "features.min_count": [1, 3]}
    config = write_config(configure, tmp_path / "a.yaml", space, epochs=2, evaluations_per_epoch=3)
    command = [
        sys.executable,
        "-m",
        "recsys.cli",
        *arguments(config, tmp_path, "--how", how, "--trials", "7"),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(outcome.stdout)
    trials = found["trials"]
    assert len(trials) == 6 if how == "grid" else 2 <= len(trials) <= 7
    diverged = {trial["number"] for trial in trials if trial["end"] == "diverged"}
    assert diverged == {t["number"] for t in trials if t["settings"].get("training.table_lr") == 3e30}
    for trial in trials:  # ASHA stops some; what a trial tells is what training it alone tells
        if trial["end"] != "diverged":
            assert trial["history"] == alone(config, trial, tmp_path)[: len(trial["history"])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == outcome.stdout


def alone(config: Path, trial: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """All evaluations of a trial that is trained in this process."""
    experiment = load_experiment(config).replace({**trial["settings"], "training.seed": 1000})
    history: list[dict[str, Any]] = []
    ready = prepare(experiment.data, experiment.features, folder / "prepared")
    train_trial(experiment, ready.path, history.append)
    return history


@pytest.mark.slow
@pytest.mark.parametrize("killed", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_is_killed_goes_on_without_doing_trials_again(
    configure: Configure, tmp_path: Path, killed: signal.Signals
) -> None:
    space = {"training.table_lr": [0.01, 0.02, 0.05, 0.1, 0.2]}
    config = write_config(configure, tmp_path / "a.yaml", space, epochs=3, evaluations_per_epoch=4)
    command = [sys.executable, "-m", "recsys.cli"]
    more = ("--how", "grid", "--workers", "1")
    driver = subprocess.Popen(
        [*command, *arguments(config, tmp_path, *more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(done := records(tmp_path, ended=True)) < 2:
            assert driver.poll() is None
            time.sleep(0.05)
        driver.send_signal(killed)
        _, text = driver.communicate(timeout=300)
    finally:
        driver.kill()
        driver.communicate()
    if killed == signal.SIGINT:
        assert "the same command goes on from there" in text
    done = records(tmp_path, ended=True)
    assert len(done) < 5
    outcome = subprocess.run(
        [*command, *arguments(config, tmp_path, *more)], capture_output=True, text=True, check=True
    )
    after = records(tmp_path, ended=True)
    assert len(after) == 5
    assert all(after[name] == kept for name, kept in done.items()), "written once"

    whole = tmp_path / "whole"
    other = [*command, *arguments(config, whole, *more)]
    expected = json.loads(subprocess.run(other, capture_output=True, text=True, check=True).stdout)
    found = json.loads(outcome.stdout)
    # one worker: even what ASHA decided is the same
    assert found["trials"] == expected["trials"]


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_is_run_again(configure: Configure, tmp_path: Path) -> None:
    config = write_config(configure, tmp_path / "a.yaml", {"training.table_lr": [0.01, 0.02]}, epochs=8)
    command = [sys.executable, "-m", "recsys.cli", *arguments(config, tmp_path, "--how", "grid", "--no-asha")]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        while not records(tmp_path, ended=False):
            assert driver.poll() is None
            time.sleep(0.02)
        for pid in workers_of(driver.pid):
            os.kill(pid, signal.SIGKILL)
        text, _ = driver.communicate(timeout=1200)
    finally:
        driver.kill()
        driver.communicate()
    for trial in json.loads(text)["trials"]:
        assert trial["end"] == "finished"
        assert trial["history"] == alone(config, trial, tmp_path)


@pytest.mark.slow
def test_a_search_whose_last_node_is_lost_ends(configure: Configure, tmp_path: Path) -> None:
    """Tune would wait for another; the same command goes on."""
    config = write_config(configure, tmp_path / "a.yaml", {"training.table_lr": [0.01, 0.02]}, epochs=8)
    command = [sys.executable, "-m", "recsys.cli", *arguments(config, tmp_path, "--how", "grid", "--no-asha")]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not records(tmp_path, ended=False):
            assert driver.poll() is None
            time.sleep(0.02)
        for pid in [*workers_of(driver.pid, "raylet"), *workers_of(driver.pid)]:
            os.kill(pid, signal.SIGKILL)
        text, said = driver.communicate(timeout=1200)
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode in (1, 2), said  # with 1 it was Ray that ended the process
    if driver.returncode == 2:
        assert "last node has ended" in json.loads(text)["error"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {trial["end"] for trial in json.loads(again.stdout)["trials"]} == {"finished"}


def workers_of(driver: int, name: str = "ray::ImplicitFunc") -> list[int]:
    """Find processes of trials, at least one, or others of that name; not Ray's agents, without which a node ends."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid = int(stat.parent.name)
            parents[pid] = int(stat.read_text().rpartition(")")[2].split()[1])
            names[pid] = (stat.parent / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def below(pid: int) -> bool:
        return pid == driver or (pid in parents and below(parents[pid]))

    found = [pid for pid, called in names.items() if name in called.partition("\0")[0] and below(pid)]
    assert found
    return found


def records(folder: Path, ended: bool) -> dict[str, tuple[int, str]]:
    """When each trial's record was written, and what it holds."""
    stopped = {
        trial["digest"]
        for study in folder.glob("runs/tune/*/study.json")
        for trial in json.loads(study.read_text())["trials"]
        if trial["stopped_rows"] is not None
    }
    found = {
        file.stem: (os.stat(file).st_mtime_ns, file.read_text()) for file in folder.glob("runs/trials/*.json")
    }
    return {
        name: kept
        for name, kept in found.items()
        if not ended or name in stopped or json.loads(kept[1])["end"]
    }
