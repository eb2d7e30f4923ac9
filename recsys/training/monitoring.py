"""What a training shows while it runs: TensorBoard, MLflow where it is configured, a trace where one is asked for."""

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.tensorboard import SummaryWriter

from recsys.config import ConfigError, ExperimentConfig
from recsys.training.loop import Watch
from recsys_cython_ext.files import new_file

UNTRACED = 7  # batches before those traced, the last two of them to warm the profiler up
TRACED = schedule(wait=UNTRACED - 2, warmup=2, active=5, repeat=1)


@contextmanager
def recorded(out: Path, config: ExperimentConfig, watch: Watch) -> Iterator[Watch]:
    """Yield a watch that also writes every evaluation to TensorBoard files in `out`, and to MLflow."""
    with SummaryWriter(str(out)) as board, _mlflow(config) as track:

        def report(entry: dict[str, Any]) -> None:
            # GAUC is None without users
            numbers = {name: value for name, value in entry.items() if value is not None}
            for name, value in numbers.items():
                board.add_scalar(name, value, entry["rows"])
            track(numbers)
            watch.report(entry)

        yield replace(watch, report=report)


@contextmanager
def _mlflow(config: ExperimentConfig) -> Iterator[Any]:
    if config.job.mlflow is None:
        yield lambda _: None
        return
    try:
        import mlflow
    except ImportError:
        raise ConfigError(
            "job.mlflow is set, but mlflow is not installed: pip install mlflow-skinny"
        ) from None
    mlflow.set_tracking_uri(config.job.mlflow)
    mlflow.set_experiment("recsys")
    with mlflow.start_run(run_name=f"{config.name}/seed-{config.training.seed}"):
        flat = {f"training.{key}": value for key, value in config.training.model_dump(mode="json").items()}
        mlflow.log_params({"tables.scheme": config.tables.scheme, "model": config.model.name, **flat})
        yield lambda numbers: mlflow.log_metrics(numbers, step=numbers["rows"])


@contextmanager
def profiled(file: Path, watch: Watch) -> Iterator[Watch]:
    """Yield a watch that also traces a few steps into `file` (.json.gz), for chrome://tracing or Perfetto."""
    plain = file.with_suffix("")

    def write(profiler: Any) -> None:
        profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, new_file(file) as whole, gzip.open(whole, "wb") as target:
            shutil.copyfileobj(source, target)
        plain.unlink()

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, schedule=TRACED, on_trace_ready=write) as profiler:

        def step() -> None:
            profiler.step()
            watch.step()

        yield replace(watch, step=step)
    if not file.exists():
        watch.warn(f"{file}: no trace, for fewer than {UNTRACED + 1} batches were trained")
