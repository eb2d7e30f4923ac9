"""Declared tables: which scheme, how wide, in how many bytes."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

WIDEST = 4096  # numbers of a vector
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


def check_budget(budget: str) -> str:
    """Return a budget as it is declared. Raises ValueError where it is none."""
    return str(_parse_budget(budget))


def budget_bytes(budget: str, full_bytes: int) -> int:
    """Bytes of a declared budget; a share is taken of `full_bytes`, the full table's."""
    amount, unit = re.fullmatch(r"([0-9.]+)\s*(%|[A-Za-z]+)", budget).groups()  # type: ignore[union-attr]
    return int(full_bytes * float(amount) / 100) if unit == "%" else int(float(amount) * _UNITS[unit.upper()])


class _Tables(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding_dim: int = Field(16, ge=4, le=WIDEST, multiple_of=4)
    init_bound: float = Field(0.05, gt=0)
    budget: Budget | None = None  # all resident bytes of training: weights, optimiser state, vocabularies
    budget_embedding_dim: int = Field(
        16, ge=4, le=WIDEST, multiple_of=4
    )  # width of the full table a share refers to

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


class CompactTables(_Tables):
    """A row for each code, as wide as `widths` says of its feature, then zeros; a budget is only checked.

    For vocabularies of ids that were chosen (`keep` of a feature): all others share the row of unknown ids, or with
    `unknown: zero` are the zero vector. A feature of width 0 has no table, and is the zero vector for every id.
    """

    scheme: Literal["compact"]
    widths: dict[str, int]
    unknown: Literal["default", "zero"] = "default"

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        for feature, width in self.widths.items():
            if width % 4 or not 0 <= width <= self.embedding_dim:
                raise ValueError(
                    f"widths: feature {feature!r}: width {width} is none of 0, 4, 8, … up to embedding_dim "
                    f"{self.embedding_dim}"
                )
        return self

    def check(self, features: Collection[str]) -> None:
        """Raise ValueError unless `widths` are those of `features`, the ones with tables of their own."""
        if missing := [feature for feature in features if feature not in self.widths]:
            raise ValueError(
                f"tables.widths lacks {', '.join(missing)}: give every feature a width, 0 for no table"
            )
        if unknown := [feature for feature in self.widths if feature not in features]:
            raise ValueError(
                f"tables.widths names {', '.join(unknown)}, but only these features have tables of their own: "
                f"{', '.join(features)}"
            )


class OptEmbedTables(_Tables):
    """A row per id, some of which training learns to mask, at every width at once; a budget is only checked.

    It is trained to choose rows and widths by, and not to be kept: a budget is met by what is made of it.
    """

    scheme: Literal["opt_embed"]
    threshold_by: Literal["field", "id"] = "field"
    alpha: float = Field(1e-4, ge=0)  # of alpha · exp(-threshold) in the loss, which masks more rows
    threshold_lr: float | None = Field(None, gt=0)  # of thresholds by field; `training.dense_lr` unless given

    @model_validator(mode="after")
    def _threshold_rate(self) -> Self:
        if self.threshold_by == "id" and self.threshold_lr is not None:
            raise ValueError(
                "threshold_lr is for `threshold_by: field`; thresholds by id are trained with training.table_lr: "
                "leave it out"
            )
        return self


class _LearnerTables(_Tables):
    """A row per id, of which training learns what to mask; a budget is only checked, and met by what is made of it."""


class PepTables(_LearnerTables):
    """Weights are shrunk by σ(s), s of the field or of each of its columns."""

    scheme: Literal["pep"]
    threshold_by: Literal["field", "field_dimension"] = "field"
    threshold_init: float = -15.0  # of s
    threshold_decay: float = Field(1e-5, ge=0)  # draws s to 0, where σ(s) is 0.5
    threshold_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given


class DeepLightTables(_LearnerTables):
    """The smallest of the weights that batches look up are masked: after k batches sparsity · (1 - damping^(k/100))."""

    scheme: Literal["deep_light"]
    sparsity: float = Field(0.9, gt=0, lt=1)
    damping: float = Field(0.99, gt=0, lt=1)


class AutoDimTables(_LearnerTables):
    """Every feature mixes the widths 0, 4, …, embedding_dim, and learns which is best."""

    scheme: Literal["auto_dim"]
    alpha: float = Field(0.0, ge=0)  # of (expected width / embedding_dim) in the loss
    annealing: float = Field(5e-5, ge=0)  # what the temperature loses each batch, from 1 down to 0.01
    choice_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given


class AutoSrhTables(_LearnerTables):
    """Ids of like frequency share a scale for each column; scales below `cut` mask it."""

    scheme: Literal["auto_srh"]
    groups: int = Field(6, ge=1, le=1_000_000)  # of equally many ids
    l1: float = Field(1e-4, ge=0)  # of the scales' sum in the loss
    cut: float = Field(0.01, ge=0)
    scale_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given


class MdeTables(_LearnerTables):
    """A row for every id, narrower the more ids its feature has (width ~ ids^-alpha), then zeros. It learns no mask."""

    scheme: Literal["mde"]
    alpha: float = Field(0.3, ge=0, le=1)


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
    hidden_dim: int = Field(16, ge=1, le=WIDEST)
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
    block_dim: int = Field(8, ge=4, le=WIDEST, multiple_of=4)
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
    chunk_dim: int = Field(8, ge=4, le=WIDEST, multiple_of=4)
    num_tables: int = Field(1, ge=1, le=1024)  # sub-tables the chunks are dealt to
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
    | CompactTables
    | OptEmbedTables
    | PepTables
    | DeepLightTables
    | AutoDimTables
    | AutoSrhTables
    | MdeTables
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
