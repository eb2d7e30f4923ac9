"""The population stability index over buckets, and its verdict.

Over buckets i with shares a and b it is

    PSI = sum_i (b_i - a_i) ln(b_i / a_i),    a_i = count_i / total + 1e-6, and b_i alike,

the symmetric Kullback-Leibler divergence (Jeffreys 1946) with additive smoothing, so that an empty bucket has a
logarithm. By the usual rule of thumb of credit scoring (Siddiqi 2006), which no theory backs, below 0.1 is stable
and above 0.25 drifted. Samples of one population differ too: K buckets of n_A and n_B values then have a PSI of
about (K - 1) (1 / n_A + 1 / n_B) (Yurdakul & Naranjo 2020), which is given beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHIFTED, DRIFTED = 0.1, 0.25
SMOOTHING = 1e-6
LARGEST = 5


@dataclass(frozen=True)
class BucketDrift:
    """A bucket, its shares of A and of B, and its term of the sum."""

    bucket: str
    a: float
    b: float
    psi: float


@dataclass(frozen=True)
class FeatureDrift:
    """How a column of B differs from A's.

    Buckets of ids are each id with at least 0.1 % of A's or of B's impressions, missing, and all others together.
    Those of numbers are A's training deciles (values that many rows share leave fewer), what lies below and above A's
    range, and missing, in the units of the data. Impressions count missing ids too, which are neither new nor vanished.

    Attributes:
        kind: As declared.
        verdict: stable, shifted or drifted, a rule of thumb.
        psi: The index over `buckets` buckets.
        by_chance: PSI to be expected of two samples of one population; None of a statistic, for the rows of an id share
            its value (and its `count` grows with the set), so that it moves more than rows drawn alone would.
        values: Impressions of A and of B.
        missing: Their shares of missing values, None without any impression.
        ids: Distinct ids of A and of B; this and the next three are None of what has no ids, or none to share.
        new_impressions, new_ids: Shares of B's impressions and of B's distinct ids that A never saw.
        vanished_impressions: Share of A's impressions whose ids B never saw.
        largest: The buckets with the largest terms.
    """

    name: str
    kind: str
    verdict: str
    psi: float
    by_chance: float | None
    buckets: int
    values: tuple[int, int]
    missing: tuple[float | None, float | None]
    ids: tuple[int, int] | None
    new_impressions: float | None
    new_ids: float | None
    vanished_impressions: float | None
    largest: list[BucketDrift]


def feature_drift(
    name: str, kind: str, labels: Sequence[str], counts: np.ndarray, missing: np.ndarray, **of_ids: Any
) -> FeatureDrift:
    """Compare the counts int64 [2, K] of A and B in the buckets `labels`.

    missing: int64 [2], how many of them are of missing values. of_ids: the fields of `FeatureDrift` that only ids have.
    """
    terms, shares_a, shares_b = psi_terms(*counts)
    values, buckets = counts.sum(axis=1).tolist(), int(counts.any(axis=0).sum())
    psi = float(terms.sum())
    largest = [place for place in np.argsort(-terms, kind="stable")[:LARGEST].tolist() if terms[place] > 0]
    no_ids = dict.fromkeys(("ids", "new_impressions", "new_ids", "vanished_impressions"))
    by_chance = None
    if all(values) and kind != "statistic":
        by_chance = (buckets - 1) * (1 / values[0] + 1 / values[1])
    return FeatureDrift(
        name=name,
        kind=kind,
        verdict=verdict(psi),
        psi=psi,
        by_chance=by_chance,
        buckets=buckets,
        values=(values[0], values[1]),
        missing=(share(missing[0], values[0]), share(missing[1], values[1])),
        largest=[
            BucketDrift(labels[place], float(shares_a[place]), float(shares_b[place]), float(terms[place]))
            for place in largest
        ],
        **(no_ids | of_ids),
    )


def psi_terms(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return terms of the PSI and the shares of A and of B, float64 [K] each.

    a, b: counts int64 [K] of the same buckets. Shares are before smoothing; those of nothing at all are 0.
    """
    shares_a, shares_b = (counts / max(int(counts.sum()), 1) for counts in (a, b))
    smooth_a, smooth_b = shares_a + SMOOTHING, shares_b + SMOOTHING
    return (smooth_b - smooth_a) * np.log(smooth_b / smooth_a), shares_a, shares_b


def verdict(psi: float) -> str:
    """Return the verdict by the rule of thumb: stable below 0.1, drifted above 0.25, else shifted."""
    return "stable" if psi < SHIFTED else "drifted" if psi > DRIFTED else "shifted"


def share(part: Any, whole: Any) -> float | None:
    """Return part / whole, None where the whole is 0."""
    return int(part) / int(whole) if whole else None
