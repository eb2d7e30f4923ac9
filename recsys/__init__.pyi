from .comparison.experiments import run_comparison
from .compression.search import run_compression
from .config import ConfigError, ExperimentConfig, load_experiment, parse_experiment
from .evaluation.arms.compare import compare
from .evaluation.metrics import auc, calibration, evaluate, gauc, logloss, normalized_entropy
from .evaluation.off_policy.estimators import evaluate_policy
from .evaluation.off_policy.replay import replay
from .evaluation.online.experiment import analyse
from .evaluation.online.interleaving import analyse_interleaving, team_draft
from .planning import report_tables
from .serving.export import export
from .serving.scoring import predict_file
from .training.run import Run
from .training.train import train

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "Run",
    "analyse",
    "analyse_interleaving",
    "auc",
    "calibration",
    "compare",
    "evaluate",
    "evaluate_policy",
    "export",
    "gauc",
    "load_experiment",
    "logloss",
    "normalized_entropy",
    "parse_experiment",
    "predict_file",
    "replay",
    "report_tables",
    "run_comparison",
    "run_compression",
    "team_draft",
    "train",
]
__version__: str
