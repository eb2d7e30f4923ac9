"""Optuna's tree-structured Parzen estimator proposes settings of a search space."""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from recsys.config import Choices, Range

STARTUP = 10  # Optuna's own number of random trials before the estimator guides them


class Optuna:
    """A sampler that proposes settings and learns from their scores, also from those of another process.

    Trials that run at the same time are kept apart (`constant_liar`). At most a third of `trials` is drawn at random.
    Bergstra et al. 2011, Algorithms for hyper-parameter optimization; Akiba et al. 2019, Optuna.
    """

    def __init__(self, space: Mapping[str, Choices], seed: int, trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=min(STARTUP, trials // 3), constant_liar=True
        )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space = space
        # places in the list, for Optuna takes no lists or mappings as values
        self._distributions: dict[str, BaseDistribution] = {
            key: FloatDistribution(choices.low, choices.high, log=choices.log)
            if isinstance(choices, Range)
            else CategoricalDistribution(range(len(choices)))
            for key, choices in space.items()
        }
        self._proposed: dict[str, optuna.trial.Trial] = {}

    def ask(self) -> dict[str, Any]:
        """Return the next settings; they may have been proposed before."""
        trial = self._study.ask(self._distributions)
        settings = {
            key: trial.params[key] if isinstance(choices, Range) else choices[trial.params[key]]
            for key, choices in self._space.items()
        }
        self._proposed[json.dumps(settings)] = trial
        return settings

    def tell(self, settings: Mapping[str, Any], score: float | None) -> None:
        """Take the score of settings, higher is better; None and -inf are failures.

        Settings outside the space are ignored.
        """
        good = score is not None and score > float("-inf")
        state = TrialState.COMPLETE if good else TrialState.PRUNED  # without a value: worse than all others
        proposed = self._proposed.pop(json.dumps(settings), None)
        if proposed is not None:
            self._study.tell(proposed, score if good else None, state)
        elif settings.keys() == self._space.keys():
            params = {
                key: settings[key] if isinstance(choices, Range) else choices.index(settings[key])
                for key, choices in self._space.items()
            }
            self._study.add_trial(
                create_trial(
                    params=params,
                    distributions=self._distributions,
                    value=score if good else None,
                    state=state,
                )
            )
