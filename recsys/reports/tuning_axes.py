"""Axes of a picture with parallel coordinates: heights from 0 to 1 of the values of a setting."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from typing_extensions import override

from recsys.config import FIT, Choices, Range


class SettingAxis(Protocol):
    """A vertical axis of height 1."""

    def height(self, value: Any) -> float:
        """Return where a value lies."""

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights and labels of the ticks."""


class NumberAxis(SettingAxis):
    """An axis of the numbers from `low` to `high`; `log` spaces them by their logarithms, `flipped` puts `low` on top."""

    def __init__(self, low: float, high: float, log: bool = False, flipped: bool = False) -> None:
        self._log, self._flipped = log, flipped
        self._low, self._high = low, high

    @override
    def height(self, value: Any) -> float:
        low, high, at = (np.log(v) if self._log else v for v in (self._low, self._high, value))
        share = float((at - low) / (high - low)) if high > low else 0.5
        return 1 - share if self._flipped else share

    @override
    def ticks(self) -> list[tuple[float, str]]:
        locator = LogLocator(subs=(1.0, 2.0, 5.0)) if self._log else MaxNLocator(5)
        marks = [v for v in locator.tick_values(self._low, self._high) if self._low <= v <= self._high]
        return [(self.height(value), f"{value:.4g}") for value in marks]


class ListedAxis(SettingAxis):
    """An axis of listed values, in the order of the list, numbers by size."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = all(isinstance(value, int | float) for value in values)
        self._names = list(
            dict.fromkeys(json.dumps(value) for value in (sorted(values) if numbers else values))
        )

    @override
    def height(self, value: Any) -> float:
        last = len(self._names) - 1
        return self._names.index(json.dumps(value)) / last if last else 0.5

    @override
    def ticks(self) -> list[tuple[float, str]]:
        return [(self.height(json.loads(name)), name.strip('"')) for name in self._names]


def setting_axis(choices: Choices, values: Sequence[Any]) -> SettingAxis:
    """Return the axis of a setting that took `values`; those of the file itself may lie outside its choices."""
    if not isinstance(choices, Range):
        return ListedAxis([*(choice for choice in choices if choice != FIT), *values])
    if not all(isinstance(value, int | float) for value in values):
        return ListedAxis(values)
    return NumberAxis(min(choices.low, *values), max(choices.high, *values), choices.log and min(values) > 0)
