"""A scheme is added by its own class and declaration and one member of a union: all the rest works with it as it is."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field as Key
from pydantic import TypeAdapter, ValidationError
from torchrec import KeyedJaggedTensor
from typing_extensions import override

from recsys_tables.bytes import resident_bytes
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.planning.collisions import observed_collisions
from recsys_tables.planning.plan import BudgetError, TablePlan, plan_tables
from recsys_tables.scheme import Lookup, Scheme, Table, describe, difference
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import Budget, OptionsTables
from recsys_tables.schemes.full import FullTables
from recsys_tables.schemes.hashed import HashTables
from recsys_tables.serving import artefact
from recsys_tables.serving.write import write

# ---- what its own file would hold


@dataclass(frozen=True)
class Modulo(ParameterFree):
    """e(i) = T[i mod num_rows]."""

    feature: str
    num_ids: int
    num_rows: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def tables(self) -> tuple[Table, ...]:
        return (Table(f"{self.feature}/modulo", self.num_rows, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        return (Lookup(f"{self.feature}/modulo", (ids % self.num_rows)[:, None]),)


class ModuloTables(OptionsTables):
    """A budget takes every n-th part of the rows."""

    scheme_class: ClassVar[type[Scheme]] = Modulo
    scheme: Literal["modulo"]
    most_ids_a_row: int = Key(64, ge=1)
    budget: Budget

    @override
    def options(self, feature: FeatureSize) -> Iterator[Modulo]:
        num_ids = feature.codes("modulo")
        for ids_a_row in range(1, min(num_ids, self.most_ids_a_row) + 1):
            yield Modulo(feature.name, num_ids, -(-num_ids // ids_a_row), self.embedding_dim, self.init_bound)


# ---- the one line of the union

Tables = Annotated[FullTables | HashTables | ModuloTables, Key(discriminator="scheme")]

# ---- and nothing else

FEATURES = [FeatureSize("user", 3002, 3002, 14 * 3000, 14 * 3000), FeatureSize("item", 502, 502, 7000, 7000)]
HISTORY = FeatureSize("history", 502, 502, 0, 0, reads="item")


def declared(**keys: Any) -> Any:
    return TypeAdapter(Tables).validate_python({"scheme": "modulo", "budget": "50%", **keys})


def planned(budget: str = "50%") -> TablePlan:
    return plan_tables(declared(budget=budget), [*FEATURES, HISTORY])


def weights(schemes: list[Scheme]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        table.name: random.normal(size=(table.num_embeddings, table.embedding_dim)).astype(np.float32)
        for scheme in schemes
        for table in scheme.tables()
    }


def test_its_declaration_is_checked() -> None:
    assert declared().scheme_name() == "modulo"
    with pytest.raises(ValidationError, match="'12 apples' is not a budget"):
        declared(budget="12 apples")
    with pytest.raises(
        ValidationError, match="'modulo' deals its rows in one way only; `allocation` is a key of"
    ):
        declared(allocation="sqrt")
    with pytest.raises(ValidationError, match="most_ids_a_row"):
        declared(most_ids_a_row=0)


def test_it_is_planned_within_its_budget() -> None:
    totals = []
    for percent in (30, 50, 80, 100):
        plan = planned(f"{percent}%")
        assert plan.bytes.total <= plan.full_bytes * percent / 100
        assert plan.bytes == resident_bytes(plan.schemes, 14 * 3000 + 7000)
        totals.append(plan.bytes.total)
    assert all(a < b for a, b in itertools.pairwise(totals))
    assert [type(scheme).__name__ for scheme in planned().schemes] == ["Modulo", "Modulo", "Shared"]
    with pytest.raises(BudgetError, match="the smallest such tables need"):
        planned("1%")
    with pytest.raises(ValueError, match="'user' is hashed, but the scheme 'modulo' needs vocabulary codes"):
        plan_tables(declared(), [FeatureSize("user", None, 3002, 0, 0)])


def test_it_is_described_and_collides() -> None:
    scheme: Any = planned().schemes[0]
    assert difference(json.loads(json.dumps(describe(scheme))), scheme) is None
    assert scheme.expected_collisions(np.arange(9), np.ones(9)) is None
    rates = observed_collisions(scheme, np.arange(scheme.num_rows + 1), np.ones(scheme.num_rows + 1))
    assert rates == pytest.approx((2 / (scheme.num_rows + 1),) * 2)


def test_lookup_engine_and_artefact_give_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schemes = list(planned().schemes)
    tables = weights(schemes)
    fields = [Field(scheme) for scheme in schemes]
    engine = EmbeddingEngine(fields)
    with torch.no_grad():
        for name, parameter in engine.named_parameters():
            parameter.copy_(
                torch.from_numpy(tables[name.split("embedding_bags.")[1].removesuffix(".weight")])
            )
    monkeypatch.setattr("recsys_tables.config.DECLARATIONS", (FullTables, HashTables, ModuloTables))
    served = write(tmp_path / "artefact", fields, tables.__getitem__, "fp32")
    assert artefact.open(tmp_path / "artefact").fields == served.fields
    ids = np.array([5, 0, 501, 5])
    batch = KeyedJaggedTensor.from_lengths_sync(
        [field.feature for field in fields],
        torch.from_numpy(np.tile(ids, 3)),
        torch.ones(12, dtype=torch.int32),
    )
    out = engine(batch)
    for scheme in schemes:
        owner: Any = scheme.owner
        expected = tables[f"{owner.feature}/modulo"][ids % owner.num_rows]
        assert np.array_equal(lookup(scheme, tables, ids), expected)
        assert np.array_equal(served.vectors(scheme.feature, ids), expected)
        assert np.array_equal(engine.vectors_of(scheme.feature, ids, tables), expected)
        assert np.array_equal(out[scheme.feature].detach().numpy(), expected)
