"""The three ways to combine looked-up vectors that have no parameters, in torch and in NumPy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

Operation = Literal["sum", "concat", "product"]


class ParameterFree:
    """The `combine` of a scheme whose `operation` is a sum, a concatenation or a product."""

    operation: Operation = "concat"

    @property
    def linear(self) -> bool:
        """A product does not commute with the sum of a bag."""
        return self.operation != "product"

    def combine(self) -> "nn.Module":
        """Return the torch module: list of vectors [..., D_j] -> [..., D]."""
        from recsys_tables import combine_torch

        modules = {"sum": combine_torch.Sum, "concat": combine_torch.Concat, "product": combine_torch.Product}
        return modules[self.operation]()

    def combine_numpy(self, vectors: Sequence[Any]) -> Any:
        """Do the same in NumPy, for serving."""
        functions = {
            "sum": lambda: np.sum(vectors, axis=0),
            "concat": lambda: np.concatenate(vectors, axis=-1),
            "product": lambda: np.prod(vectors, axis=0),
        }
        return functions[self.operation]()


def operand_dim(operation: Operation, embedding_dim: int, operands: int) -> int:
    """Width of each operand so that the combination is `embedding_dim` wide.

    Raises ValueError when a concatenation does not divide evenly.
    """
    if operation != "concat":
        return embedding_dim
    if embedding_dim % operands:
        raise ValueError(f"embedding_dim {embedding_dim} cannot be concatenated from {operands} equal parts")
    return embedding_dim // operands
