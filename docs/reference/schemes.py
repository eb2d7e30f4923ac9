"""The page of the schemes: what each can do, found out by planning and building it, and what it says of itself."""

import inspect
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tables import DeepHash, EmbeddingEngine, FeatureSize, Field, plan_tables
from recsys_tables.codes import Codes
from recsys_tables.config import DECLARATIONS
from recsys_tables.planning.plan import BudgetError
from recsys_tables.schemes.declared import Declaration, FixedTables
from reference.experiment import keys, text_of
from reference.markdown import code, table

HEAD = """# Schemes

What each scheme can do is not written down by hand: it is found out, when this page is built, by planning every scheme
for features of each sort, building it, and asking TorchRec's planner to shard it over two ranks. Which of them suits
your data is told in the [guide](../schemes.md).
"""
LEGEND = """
- **codes**, **any id**, **both**: the features that it takes: of vocabulary codes, of any 64-bit id (`encoding: hash`,
  where no vocabulary is needed), of codes and other ids beside them (`unknown: hash`).
- **budget**: *rows* are chosen so that the bytes fit; or it is only *checked*, because ids and settings decide the size.
- **shared**: all features read one table.
- **bags**: the rows of a list are summed *in the lookup*, or ids are combined *one by one* and then summed. Both are exact.
- **sharding**: how its tables can be spread over two ranks (by table, row or column), with an elementwise optimiser.
- **network**: trained numbers beside the rows, for a feature of 1,000 ids; they are in the budget.
- **export**: `recsys export` can write it, to be looked up without torch.
- **learner**: it is trained to find out which rows and columns are worth their bytes, and
  `recsys compress --into compact` makes tables of them.
"""
SORTS = {
    "codes": {"num_codes": 1000, "vocabulary_bytes": 14_000},
    "any id": {"num_codes": None, "vocabulary_bytes": 0},
    "both": {"num_codes": 100, "vocabulary_bytes": 1_400, "open": True},
}
BUDGETS = ("30%", "60%", "200%")  # the first in which there are such tables
SHARDINGS = ("table_wise", "row_wise", "column_wise")


@dataclass(frozen=True)
class Properties:
    """What a scheme can do, as planning and building it have shown."""

    takes: tuple[str, ...]
    budget: str
    shared: bool
    bags: str
    sharding: tuple[str, ...]
    network: int
    export: bool
    learner: bool


def page() -> str:
    """Return the page."""
    rows = [_row(declaration.scheme_name(), properties_of(declaration)) for declaration in DECLARATIONS]
    head = ["scheme", *SORTS, "budget", "shared", "bags", "sharding", "network", "export", "learner"]
    sections = [_section(declaration) for declaration in DECLARATIONS]
    return "\n".join([HEAD, table(head, rows), LEGEND, *sections, _deep_hash()])


def properties_of(declaration: type[Declaration]) -> Properties:
    """Return what the scheme of a declaration can do."""
    with tempfile.TemporaryDirectory() as folder:
        declared = _example(declaration, Path(folder))
        plans = {sort: schemes for sort in SORTS if (schemes := _planned(declared, sort))}
        scheme, other = next(iter(plans.values()))
        return Properties(
            takes=tuple(plans),
            budget="checked" if issubclass(declaration, FixedTables) else "rows",
            shared=bool({t.name for t in scheme.tables()} & {t.name for t in other.tables()}),
            bags="in the lookup" if scheme.linear else "one by one",
            sharding=_shardings(scheme),
            network=sum(parameter.numel() for parameter in scheme.combine().parameters()),
            export=hasattr(scheme, "combine_numpy"),
            learner=hasattr(scheme, "learned"),
        )


def _example(declaration: type[Declaration], folder: Path) -> Declaration:
    """Return a declaration for features `item` and `other`, with whatever the scheme requires beside a budget."""
    raw: dict[str, Any] = {"scheme": declaration.scheme_name()}
    if "codes" in declaration.model_fields:
        ids = {name: np.arange(1000) for name in ("item", "other")}
        rows = {name: np.arange(1000)[:, None] % 50 for name in ids}
        Codes.build(ids, rows, 50).save(folder / "codes")
        raw["codes"] = folder / "codes"
    elif "widths" in declaration.model_fields:
        raw["widths"] = {"item": 8, "other": 8}
    elif not issubclass(declaration, FixedTables):
        raw["budget"] = BUDGETS[0]
    return declaration.model_validate(raw)


def _planned(declared: Declaration, sort: str) -> tuple[Any, ...] | None:
    """Return schemes of a feature of 1,000 ids of a sort and of a smaller one; None where such features are refused."""
    sizes = [
        FeatureSize("item", full_codes=1000, full_vocabulary_bytes=14_000, **SORTS[sort]),
        FeatureSize("other", 50 if sort != "any id" else None, 50, 700, 700, open=sort == "both"),
    ]
    for budget in BUDGETS if declared.budget else (None,):
        try:
            return plan_tables(declared.model_copy(update={"budget": budget}), sizes).schemes
        except BudgetError:
            continue
        except ValueError:
            return None
    raise ValueError(f"{declared.scheme_name()}: its tables fit none of the budgets {BUDGETS}")


def _shardings(scheme: Any) -> tuple[str, ...]:
    """Return the ways in which TorchRec can shard the tables over two ranks."""
    import torch

    from recsys_tables.distributed.sharding import TableOptimizer, plan_sharding

    engine = EmbeddingEngine([Field(scheme)], device=torch.device("meta"))
    ways = []
    for sharding in SHARDINGS:
        optimizer = TableOptimizer("adagrad")
        plan = plan_sharding(engine, sharding, optimizer, 2, torch.device("cpu"), memory_per_rank=2**30)
        kinds = {parameter.sharding_type for module in plan.plan.values() for parameter in module.values()}
        if kinds == {sharding}:
            ways.append(sharding.removesuffix("_wise"))
    return tuple(ways)


def _row(name: str, can: Properties) -> Sequence[str]:
    """Return the line of a scheme in the matrix."""
    yes = {True: "✓", False: ""}
    return [
        f"[`{name}`](#{name})",
        *(yes[sort in can.takes] for sort in SORTS),
        can.budget,
        yes[can.shared],
        can.bags,
        ", ".join(can.sharding),
        f"{can.network:,}" if can.network else "",
        yes[can.export],
        yes[can.learner],
    ]


def _section(declaration: type[Declaration]) -> str:
    title = f"\n## {declaration.scheme_name()}\n\n{_described(declaration.scheme_class)}\n\n"
    return f"{title}In an experiment: {text_of(declaration)}\n\n{_own_keys(declaration)}\n"


def _own_keys(declaration: type[Declaration]) -> str:
    """Return the table of the keys that not all tables have."""
    rest = "the [keys of all tables](experiment.md#tables)"
    own = keys(
        declaration, "tables", leave_out=Declaration.model_fields.keys() - declaration.__annotations__.keys()
    )
    return f"{own}\n\nBeside these it has {rest}." if own else f"It has {rest}, and no others."


def _deep_hash() -> str:
    use = f"It is used from Python, as {code('recsys_tables.DeepHashEmbedding')}; no experiment declares it."
    return f"\n## DeepHashEmbedding\n\n{_described(DeepHash)}\n\n{use}\n"


def _described(scheme: type) -> str:
    """Return what a scheme's module and class say; the class's first paragraph is its formula and source."""
    (title, *_) = (sys.modules[scheme.__module__].__doc__ or "").strip().splitlines()
    first, _, rest = inspect.cleandoc(scheme.__doc__ or "").partition("\n\n")
    return f"**{title}**\n\n```text\n{first}\n```\n\n{rest}"
