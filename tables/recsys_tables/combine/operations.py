"""The ways to combine looked-up vectors that have no parameters, in torch and in NumPy, and how all are served."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from typing_extensions import override

from recsys_tables.scheme import NO_PARAMETERS, Parameters, SchemeBase, ServableScheme, ServedTable

if TYPE_CHECKING:
    from torch import nn

Operation = Literal["sum", "concat", "product"]


class Served(SchemeBase):
    """A scheme that is served as it is trained: look up, then combine, in NumPy."""

    def serve(
        self: ServableScheme,
        tables: Mapping[str, ServedTable],
        ids: np.ndarray,
        in_range: Callable[[np.ndarray], np.ndarray],
        parameters: Parameters = NO_PARAMETERS,
    ) -> np.ndarray:
        """Return vectors of ids from served tables, as `ServableScheme.serve` says."""
        ids = in_range(ids)
        vectors = [tables[item.table].pooled(item.rows, item.weights) for item in self.rows(ids)]
        return self.combine_numpy(vectors, self.aux(ids), **parameters)


class ParameterFree(Served):
    """The `combine` of a scheme whose `operation` is a sum, a concatenation or a product."""

    operation: Operation = "concat"

    @property
    def linear(self) -> bool:
        """Return whether `combine` commutes with the sum of a bag, which a product does not."""
        return self.operation != "product"

    @property
    def is_side_by_side(self) -> bool:
        """Return whether the field's vector is its looked-up vectors one after the other, and nothing else."""
        return self.operation == "concat" and type(self).combine_numpy is ParameterFree.combine_numpy

    def combine(self) -> "nn.Module":
        """Return the torch module: list of vectors [..., D_j] -> [..., D]."""
        from recsys_tables.combine.modules import Concat, Product, Sum

        modules = {"sum": Sum, "concat": Concat, "product": Product}
        return modules[self.operation]()

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Do the same in NumPy, for serving."""
        functions = {
            "sum": lambda: np.sum(vectors, axis=0),
            "concat": lambda: np.concatenate(vectors, axis=-1),
            "product": lambda: np.prod(vectors, axis=0),
        }
        return functions[self.operation]()

    @classmethod
    def rows_of_fields(cls, schemes: Sequence[Any], ids: np.ndarray) -> np.ndarray:
        """Return the rows of several fields of this class at once, int64 [F · k, L], the k lookups of a field in turn.

        schemes: F that look up single rows without weights. ids: int64 [F, L], within their spaces.
        """
        lookups = [
            item.rows.T
            for scheme, of_field in zip(schemes, ids, strict=True)
            for item in scheme.rows(of_field)
        ]
        return np.concatenate(lookups)


class Formula(ParameterFree):
    """The `combine` of a scheme whose `combine_numpy` is written once, for NumPy arrays and torch tensors alike.

    It sees the vectors of single ids: none of these formulas commutes with the sum of a bag.
    """

    linear = False

    @override
    def combine(self) -> "nn.Module":
        from recsys_tables.combine.modules import Formula

        return Formula(self.combine_numpy)


def pick_slot(values: Any, slots: Any, width: int) -> Any:
    """Pick slot `slots` [L, 1] of rows [L, n · width] that hold n ids each -> [L, width]; NumPy or torch."""
    parts = values.reshape(len(values), values.shape[1] // width, width)
    if isinstance(parts, np.ndarray):
        return np.take_along_axis(parts, slots[:, :, None], axis=1)[:, 0]
    import torch  # the values are tensors, so it is loaded already

    return torch.take_along_dim(parts, slots[:, :, None], dim=1)[:, 0]


def operand_bound(operation: Operation, init_bound: float, operands: int) -> float:
    """Return the bound of each operand's uniform with which the combination has the variance of U(±init_bound)."""
    variance = init_bound**2 / 3
    if operation == "product":
        return math.sqrt(3 * variance ** (1 / operands))
    return init_bound / math.sqrt(operands) if operation == "sum" else init_bound


def operand_dim(feature: str, operation: Operation, embedding_dim: int, operands: int) -> int:
    """Return the width of each operand with which the combination is `embedding_dim` wide.

    Raises ValueError when a concatenation does not divide evenly.
    """
    if operation != "concat":
        return embedding_dim
    if embedding_dim % operands:
        raise ValueError(
            f"feature {feature!r}: embedding_dim {embedding_dim} cannot be concatenated from {operands} equal parts"
        )
    return embedding_dim // operands
