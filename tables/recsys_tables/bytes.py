"""Bytes that must be resident, by kind: the measure every comparison of schemes uses."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Literal

from recsys_tables.codes import Codes
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.remap import Remap
from recsys_tables.scheme import WEIGHT_BYTES, Precision, Scheme, Table, unique_tables

OptimizerName = Literal["rowwise_adagrad", "adagrad", "sgd", "adam"]

ADAM_BYTES = 8  # two fp32 moments for each parameter of a combine: dense parameters are trained by Adam


@dataclass(frozen=True)
class ResidentBytes:
    """Bytes of the tables of a model and of what is needed to address and to combine them."""

    parameters: int = 0  # weights of tables, padding included
    optimizer: int = 0  # state of the optimisers; training only
    vocabulary: int = 0  # id -> code tables; a hashed feature has none
    remaps: int = 0  # code -> row tables
    codes: int = 0  # id -> row functions; every rank holds them
    pointers: int = 0  # row -> place tables
    dense: int = 0  # what a scheme's combine holds: projections, MLPs
    statistics: int = 0  # id -> number tables: click rates and counts of ids

    def __add__(self, other: "ResidentBytes") -> "ResidentBytes":
        return ResidentBytes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def total(self) -> int:
        """Return what is resident in training: everything."""
        return sum(getattr(self, f.name) for f in fields(self))

    @property
    def serving(self) -> int:
        """Return what is resident in serving: everything but the optimisers' state."""
        return self.total - self.optimizer

    def to_dict(self) -> dict[str, int]:
        """Return the bytes by kind, with both totals."""
        return {**asdict(self), "total": self.total, "serving": self.serving}


def resident_bytes(
    schemes: Sequence[Scheme],
    vocabulary_bytes: int,
    optimizer: OptimizerName = "rowwise_adagrad",
    statistics_bytes: int = 0,
    precision: Precision = "fp32",
) -> ResidentBytes:
    """Count the schemes' physical tables in a `precision`, shared ones once, their combines and their maps of ids.

    `vocabulary_bytes` of id -> code tables and `statistics_bytes` of id -> number tables stand beside them.
    """
    tables = table_bytes(unique_tables(schemes, precision), optimizer)
    beside = ResidentBytes(vocabulary=vocabulary_bytes, statistics=statistics_bytes)
    return sum((combine_bytes(scheme) for scheme in schemes), tables + map_bytes(schemes) + beside)


def map_bytes(schemes: Iterable[Scheme]) -> ResidentBytes:
    """Count what leads from ids to rows, once where schemes share it."""
    maps = [scheme.code_map for scheme in schemes if scheme.code_map is not None]
    codes = {code_map for code_map in maps if isinstance(code_map, Codes)}
    remaps = {id(code_map): code_map for code_map in maps if isinstance(code_map, Remap)}
    return ResidentBytes(
        codes=sum(code_map.nbytes for code_map in codes),
        remaps=sum(code_map.nbytes for code_map in remaps.values()),
    )


def table_bytes(tables: Iterable[Table], optimizer: OptimizerName) -> ResidentBytes:
    """Count the weights of physical tables and the state their optimiser keeps beside them."""
    tables = tuple(tables)
    return ResidentBytes(
        parameters=sum(table.parameter_bytes for table in tables),
        optimizer=sum(
            table.num_embeddings * optimizer_row_bytes(table.embedding_dim, optimizer) for table in tables
        ),
    )


def optimizer_row_bytes(embedding_dim: int, optimizer: OptimizerName) -> int:
    """Return the state of one row in fp32: one number for rowwise Adagrad, one a weight for Adagrad, none for SGD.

    Adam keeps two a weight, and the number of the row's updates (which FBGEMM's Adam on a GPU does without).
    """
    return {"rowwise_adagrad": 4, "adagrad": 4 * embedding_dim, "sgd": 0, "adam": 8 * embedding_dim + 4}[
        optimizer
    ]


def row_bytes(embedding_dim: int, optimizer: OptimizerName, precision: Precision = "fp32") -> int:
    """Return the bytes of one row in training: its weights and their optimiser's state."""
    return WEIGHT_BYTES[precision] * embedding_dim + optimizer_row_bytes(embedding_dim, optimizer)


def combine_bytes(scheme: Scheme) -> ResidentBytes:
    """Count the parameters and buffers of a scheme's combine, and Adam's state of the parameters.

    The module is built without storage and counted, so that nothing it holds can be forgotten.
    """
    return ResidentBytes() if isinstance(scheme.owner, ParameterFree) else _module_bytes(scheme)  # type: ignore[arg-type]


@lru_cache(maxsize=4096)  # a bisection asks for the same schemes again and again
def _module_bytes(scheme: Scheme) -> ResidentBytes:
    import torch

    with torch.device("meta"):
        module = scheme.combine()
    trained = sum(parameter.numel() for parameter in module.parameters())
    dense = sum(value.nbytes for value in [*module.parameters(), *module.buffers()])
    return ResidentBytes(optimizer=ADAM_BYTES * trained, dense=dense)
