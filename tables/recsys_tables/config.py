"""Declared tables: which scheme, how wide, in how many bytes."""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _parse_budget(value: object) -> object:
    """'10%' -> share of the full table (float); '64MB' -> bytes (int)."""
    if not isinstance(value, str):
        raise ValueError("a budget is a text such as '10%' of the full table's bytes, or '64MB'")
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|[A-Za-z]+)\s*", value)
    unit = match[2].upper() if match else ""
    if match is None or (unit != "%" and unit not in _UNITS):
        raise ValueError(
            f"{value!r} is not a budget; write '10%' of the full table's bytes, or '64MB' ({', '.join(_UNITS)})"
        )
    if float(match[1]) <= 0:
        raise ValueError("a budget must be more than nothing")
    return value.strip()


Budget = Annotated[str, BeforeValidator(_parse_budget)]
Sharding = Literal["auto", "table_wise", "row_wise", "column_wise"]  # of a table over ranks
Allocation = Literal["proportional", "sqrt"]  # rows go by a feature's ids, or by their square root


def budget_bytes(budget: str, full_bytes: int) -> int:
    """Bytes of a declared budget; a share is taken of `full_bytes`, the full table's."""
    amount, unit = re.fullmatch(r"([0-9.]+)\s*(%|[A-Za-z]+)", budget).groups()  # type: ignore[union-attr]
    return int(full_bytes * float(amount) / 100) if unit == "%" else int(float(amount) * _UNITS[unit.upper()])


class _Tables(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding_dim: int = Field(16, ge=4, multiple_of=4)
    init_bound: float = Field(0.05, gt=0)
    budget: Budget | None = None  # all resident bytes of training: weights, optimiser state, vocabularies
    budget_embedding_dim: int = Field(16, ge=4, multiple_of=4)  # width of the full table a share refers to

    @model_validator(mode="before")
    @classmethod
    def _allocates(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "allocation" in raw and "allocation" not in cls.model_fields:
            able = ", ".join(sorted(_scheme_of(model) for model in _AllocatedTables.__subclasses__()))
            raise ValueError(
                f"the scheme {_scheme_of(cls)!r} deals its rows in one way only; `allocation` is a key of {able}"
            )
        return raw


class _AllocatedTables(_Tables):
    """Hashed tables, whose rows a budget can deal to the features as it likes."""

    budget: Budget
    allocation: Allocation = "proportional"


def _scheme_of(model: type[_Tables]) -> str:
    return str(get_args(model.model_fields["scheme"].annotation)[0])


class FullTables(_Tables):
    """One row per id; a budget is only checked."""

    scheme: Literal["full"]


class HashTables(_AllocatedTables):
    """A table per feature."""

    scheme: Literal["hash"]


class MultiHashTables(_AllocatedTables):
    """A table per feature; an id is the sum of `num_hashes` rows."""

    scheme: Literal["multi_hash"]
    num_hashes: int = Field(2, ge=1, le=16)


class FrequencySplitTables(_AllocatedTables):
    """A row for each id of the vocabulary, and hashed rows, dealt by `allocation`, for the ids outside it.

    Features are declared with `unknown: hash`, so that ids outside the vocabulary keep their identity.
    """

    scheme: Literal["frequency_split"]


class HashEmbeddingTables(_AllocatedTables):
    """Two tables per feature: rows that are hashed `num_hashes` times, and importances, hashed to rows of their own."""

    scheme: Literal["hash_embedding"]
    num_hashes: int = Field(2, ge=1, le=16)
    importances_per_row: float = Field(4.0, gt=0)  # rows of importances for each row of components


class MEmComTables(_AllocatedTables):
    """Hashed rows, dealt by `allocation`, times one number for every code of the vocabulary."""

    scheme: Literal["mem_com"]


class _ComposedTables(_Tables):
    """Several small tables per feature, whose rows are combined."""

    operation: Literal["sum", "concat", "product"] = "product"
    budget: Budget

    @property
    def operands(self) -> int:
        """Rows that are combined."""
        return 2

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        if self.operation == "concat" and self.embedding_dim % (4 * self.operands):
            raise ValueError(
                f"`operation: concat` needs an embedding_dim that is a multiple of {4 * self.operands}, "
                f"{self.operands} parts of a multiple of 4 each, not {self.embedding_dim}"
            )
        return self


class QuotientRemainderTables(_ComposedTables):
    """Two tables per feature, rows in proportion to its ids, never fewer than 2·sqrt(ids)."""

    scheme: Literal["quotient_remainder"]


class _DigitTables(_ComposedTables):
    num_tables: int = Field(3, ge=2, le=8)

    @property
    def operands(self) -> int:
        """As many as tables."""
        return self.num_tables


class MixedRadixTables(_DigitTables):
    """A table for each digit of a code; never fewer rows than about num_tables · ids^(1/num_tables)."""

    scheme: Literal["mixed_radix"]


class ChineseRemainderTables(_DigitTables):
    """A table for each of several coprime moduli; never fewer rows than about num_tables · ids^(1/num_tables)."""

    scheme: Literal["chinese_remainder"]


class PathBasedTables(_Tables):
    """Codes share rows, and each passes its row through one of several networks; the budget counts both."""

    scheme: Literal["path_based"]
    hidden_dim: int = Field(16, ge=1)
    budget: Budget


class MixedDimensionTables(_Tables):
    """A row for every code, narrower the more codes its feature has (width ~ codes^-alpha), and a projection."""

    scheme: Literal["mixed_dimension"]
    alpha: float = Field(0.3, ge=0, le=1)
    budget: Budget


class TensorTrainTables(_Tables):
    """Three cores per feature; a budget chooses their ranks, and never uses what `max_rank` leaves."""

    scheme: Literal["tensor_train"]
    max_rank: int = Field(16, ge=1, le=128)
    budget: Budget


class RobeTables(_Tables):
    """One array for all features; each id reads blocks of `block_dim` weights, or shares one block with its neighbours."""

    scheme: Literal["robe"]
    block_dim: int = Field(8, ge=4, multiple_of=4)
    signs: bool = True
    budget: Budget

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        small, large = sorted((self.block_dim, self.embedding_dim))
        if large % small:
            raise ValueError(
                f"neither of block_dim {self.block_dim} and embedding_dim {self.embedding_dim} is a multiple of the other"
            )
        return self


class UnifiedTables(_Tables):
    """One table for all features; each looks up embedding_dim / chunk_dim chunks."""

    scheme: Literal["unified"]
    chunk_dim: int = Field(8, ge=4, multiple_of=4)
    num_tables: int = Field(1, ge=1)  # sub-tables the chunks are dealt to
    own_rows_up_to: int = Field(0, ge=0)  # features of so many vocabulary codes or fewer keep a row per code
    budget: Budget

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.embedding_dim % self.chunk_dim:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not a whole number of chunks of chunk_dim {self.chunk_dim}"
            )
        return self


TablesConfig = Annotated[
    FullTables
    | HashTables
    | MultiHashTables
    | QuotientRemainderTables
    | UnifiedTables
    | FrequencySplitTables
    | HashEmbeddingTables
    | MixedRadixTables
    | ChineseRemainderTables
    | PathBasedTables
    | MixedDimensionTables
    | RobeTables
    | TensorTrainTables
    | MEmComTables,
    Field(discriminator="scheme"),
]
