"""This package reads experiments, which are YAML files; nothing here imports torch."""

from recsys.config.compression import CompressionConfig
from recsys.config.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    ExperimentConfig,
    JobConfig,
    ShardingConfig,
    TrainingConfig,
    load_experiment,
    parse_experiment,
)
from recsys.config.mistakes import ConfigError
from recsys.config.models import ModelConfig
from recsys.config.teacher import TeacherConfig
from recsys.config.tuning import FIT, MIN_COUNT, Choices, Range, TuningConfig

__all__ = [
    "FIT",
    "MIN_COUNT",
    "CheckpointConfig",
    "Choices",
    "CompressionConfig",
    "ConfigError",
    "EvaluationConfig",
    "ExperimentConfig",
    "JobConfig",
    "ModelConfig",
    "Range",
    "ShardingConfig",
    "TeacherConfig",
    "TrainingConfig",
    "TuningConfig",
    "load_experiment",
    "parse_experiment",
]
