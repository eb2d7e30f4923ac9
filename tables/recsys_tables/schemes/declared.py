"""What declarations of tables have in common: width, budget, and the ways in which a budget becomes schemes.

A declaration is the section `tables` of an experiment: a scheme's name, its settings and a budget. It stands in the
scheme's own file, below the scheme, and says as its `builder` how the budget is spent.
"""

import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from typing_extensions import override

from recsys_tables.bytes import OptimizerName
from recsys_tables.combine.operations import Operation
from recsys_tables.scheme import Precision, Scheme
from recsys_tables.schemes.allocation import Allocation, Builder, FeatureSize, largest_options

WIDEST = 4096  # numbers of a vector
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _parse_budget(value: object) -> object:
    """Return a budget without the spaces around it. Raises ValueError where `value` is none."""
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


def check_budget(budget: str) -> str:
    """Return a budget as it is declared. Raises ValueError where it is none."""
    return str(_parse_budget(budget))


def budget_bytes(budget: str, full_bytes: int) -> int:
    """Return the bytes of a declared budget; a share is taken of `full_bytes`, the full table's."""
    amount, unit = re.fullmatch(r"([0-9.]+)\s*(%|[A-Za-z]+)", budget).groups()  # type: ignore[union-attr]
    return int(full_bytes * float(amount) / 100) if unit == "%" else int(float(amount) * _UNITS[unit.upper()])


class Declaration(BaseModel):
    """The tables of an experiment as they are declared; a subclass adds the field `scheme: Literal[name]`.

    scheme_class: the scheme that is declared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    scheme_class: ClassVar[type[Scheme]]

    embedding_dim: int = Field(16, ge=4, le=WIDEST, multiple_of=4)  # numbers of a vector
    init_bound: float = Field(0.05, gt=0)  # first values are uniform within ± this
    precision: Precision = "fp32"  # of the rows in training; their optimiser's state is fp32
    budget: Budget | None = None  # all resident bytes of training: weights, optimiser state, vocabularies
    budget_embedding_dim: int = Field(
        16, ge=4, le=WIDEST, multiple_of=4
    )  # width of the full table a share refers to

    @classmethod
    def scheme_name(cls) -> str:
        """Return the name that chooses this declaration in a configuration."""
        return str(get_args(cls.model_fields["scheme"].annotation)[0])

    @abstractmethod
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        """Return the way from a share of the full table to a scheme for each of `features`, in their order.

        `features` are those with tables of their own, and `optimizer` trains the tables. A larger share must give as
        many bytes or more: the plan finds the share of a budget by bisection.

        Raises ValueError naming the feature whose ids the scheme cannot take.
        """

    def check(self, features: Collection[str]) -> None:
        """Raise ValueError unless the declaration is one for `features`, those with tables of their own."""

    def digest_of_files(self) -> str | None:
        """Return a digest of what lies in the files that it names, None where it names none. Raises DamagedFile."""
        return None

    @model_serializer(mode="wrap")
    def _without_usual_precision(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dump: dict[str, Any] = handler(self)
        if dump.get("precision") == "fp32":  # so that it is named as before there was another
            del dump["precision"]
        return dump

    @model_validator(mode="after")
    def _masks_in_fp32(self) -> Self:
        if self.precision != "fp32" and hasattr(self.scheme_class, "learned"):
            raise ValueError(
                f"`precision: {self.precision}` is not for the scheme {self.scheme_name()!r}, which learns from small "
                "steps what to mask: leave it out here, and set it for the tables that come of it"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _allocates(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "allocation" in raw and "allocation" not in cls.model_fields:
            allocating = ", ".join(sorted(model.scheme_name() for model in AllocatedTables.__subclasses__()))
            raise ValueError(
                f"the scheme {cls.scheme_name()!r} deals its rows in one way only; `allocation` is a key of {allocating}"
            )
        return raw


class FixedTables(Declaration):
    """Tables whose size follows from their settings and ids alone; a budget is only checked."""

    @abstractmethod
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Scheme, ...]:
        """Return a scheme for each feature. Raises as `builder` does."""

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        schemes = self.schemes(features)
        return lambda share: schemes


class AllocatedTables(Declaration):
    """Hashed tables, whose rows a budget can deal to the features as it likes."""

    budget: Budget
    allocation: Allocation = "proportional"  # rows by a feature's ids, or by their root


class OptionsTables(Declaration):
    """Tables whose sizes are arithmetic of the number of ids: a budget takes the largest of a feature's options."""

    @abstractmethod
    def options(self, feature: FeatureSize) -> Iterator[Scheme]:
        """Yield the schemes that a feature may have, in any order. Raises as `builder` does."""

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        return largest_options(self.options, features, self.embedding_dim, optimizer, self.precision)


class ComposedTables(Declaration):
    """Every feature has several small tables, whose rows are combined."""

    operation: Operation = "product"  # how rows are combined
    budget: Budget

    @property
    def operands(self) -> int:
        """Return how many rows are combined."""
        return 2

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        if self.operation == "concat" and self.embedding_dim % (4 * self.operands):
            raise ValueError(
                f"`operation: concat` needs an embedding_dim that is a multiple of {4 * self.operands}, "
                f"{self.operands} parts of a multiple of 4 each, not {self.embedding_dim}"
            )
        return self


class DigitTables(ComposedTables, OptionsTables):
    """Every one of `num_tables` digits of a code has a table, whatever a digit is."""

    num_tables: int = Field(3, ge=2, le=8)  # digits, and tables of each feature

    @property
    @override
    def operands(self) -> int:
        return self.num_tables
