"""Declared tables: which scheme, how wide, in how many bytes."""

import re
from typing import Annotated, Literal

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


class FullTables(_Tables):
    """One row per id; a budget is only checked."""

    scheme: Literal["full"]


class HashTables(_Tables):
    """A table per feature, rows in proportion to its ids."""

    scheme: Literal["hash"]
    budget: Budget


class QuotientRemainderTables(_Tables):
    """Two tables per feature, rows in proportion to its ids, never fewer than 2·sqrt(ids)."""

    scheme: Literal["quotient_remainder"]
    operation: Literal["sum", "concat", "product"] = "product"
    budget: Budget

    @model_validator(mode="after")
    def _halves(self) -> "QuotientRemainderTables":
        if self.operation == "concat" and self.embedding_dim % 8:
            raise ValueError(
                f"`operation: concat` needs an embedding_dim that is a multiple of 8, two halves of a "
                f"multiple of 4 each, not {self.embedding_dim}"
            )
        return self


class UnifiedTables(_Tables):
    """One table for all features; each looks up embedding_dim / chunk_dim chunks."""

    scheme: Literal["unified"]
    chunk_dim: int = Field(8, ge=4, multiple_of=4)
    budget: Budget

    @model_validator(mode="after")
    def _whole_chunks(self) -> "UnifiedTables":
        if self.embedding_dim % self.chunk_dim:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not a whole number of chunks of chunk_dim {self.chunk_dim}"
            )
        return self


TablesConfig = Annotated[
    FullTables | HashTables | QuotientRemainderTables | UnifiedTables, Field(discriminator="scheme")
]
