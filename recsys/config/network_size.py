"""The numbers that a network holds are counted from its widths, without building it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkSize:
    """What a network holds: how many fp32 numbers are trained, and the bytes of all that is not."""

    trained: int
    buffer_bytes: int = 0


def linear(inputs: int, outputs: int) -> int:
    """Count the weights and biases of a linear layer."""
    return inputs * outputs + outputs


def mlp(inputs: int, hidden: Sequence[int]) -> int:
    """Count the weights and biases of an MLP's layers, of these widths."""
    return sum(linear(before, after) for before, after in itertools.pairwise([inputs, *hidden]))


def pairs(fields: int) -> int:
    """Count the pairs of fields."""
    return fields * (fields - 1) // 2


def pair_bytes(fields: int) -> int:
    """Count the bytes of all pairs of fields, as an int64 place each."""
    return 8 * pairs(fields)
