"""The part of the engine that comes after the tables: it combines, weighs and pools vectors, on any device."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchrec import KeyedTensor
from torchrec.distributed.types import Awaitable

from recsys_tables.combine.modules import Concat
from recsys_tables.engine.bags import Bag, average, pool
from recsys_tables.engine.batch_rows import BatchRows
from recsys_tables.engine.embeddings import Embeddings
from recsys_tables.engine.groups import Group
from recsys_tables.field import Field


class Combiner(nn.Module):
    """A module that makes embeddings of what collections have looked up.

    Args:
        fields: in the engine's order.
        groups: which fields are looked up together.
        keys: the lookups (key, table) of each field.
    """

    def __init__(
        self, fields: Sequence[Field], groups: Sequence[Group], keys: Sequence[Sequence[tuple[str, str]]]
    ) -> None:
        super().__init__()
        self.combines = nn.ModuleList(field.scheme.combine() for field in fields)
        self._fields, self._groups, self._keys = tuple(fields), tuple(groups), keys
        self._pooled_dims = {f.feature: f.scheme.embedding_dim for f in fields if f.pooling != "none"}
        # looked-up vectors that only have to be put side by side already are
        self._as_looked_up = (
            len(groups) == 1
            and not groups[0].bag_per_id
            and all(
                isinstance(combine, Concat) and not field.averages and field.weighted == field.weighs_rows
                for combine, field in zip(self.combines, fields, strict=True)
            )
        )

    def forward(self, looked_up: Mapping[str, KeyedTensor | Awaitable], rows: BatchRows) -> Embeddings:
        """Make embeddings of a batch of what each collection, by its name, has looked up."""
        vectors: dict[int, Tensor] = {}
        for group in self._groups:
            keyed = _wait(looked_up[group.name])
            if self._as_looked_up and keyed.keys() == [key for keys in self._keys for key, _ in keys]:
                return Embeddings(self._pooled_dims, _first(keyed.values(), len(rows.bags[0].lengths)), {})
            by_key = _by_key(keyed)
            for position in group.fields:
                of_field = [by_key[key] for key, _ in self._keys[position]]
                vectors[position] = self._vector(position, rows.bags[position], of_field, group)
        return Embeddings.of(self._fields, rows.bags, [vectors[i] for i in range(len(self._fields))])

    def _vector(self, position: int, bag: Bag, looked_up: list[Tensor], group: Group) -> Tensor:
        """Make a feature's vectors of those of its keys, which come with padding."""
        field = self._fields[position]
        used = len(bag.ids) if group.bag_per_id else len(bag.lengths)
        aux = field.scheme.aux(bag.ids)
        more = () if aux is None else (aux,)
        combine: Any = self.combines[position]
        vector = combine([_first(vector, used) for vector in looked_up], *more)
        if group.bag_per_id:
            vector = pool(field, bag, vector)
        else:
            if bag.weights is not None and not field.weighs_rows:
                vector = vector * bag.weights[:, None]
            vector = average(field, bag, vector)
        if hasattr(combine, "narrow"):
            return combine.narrow(vector, bag.lengths if field.pooling == "none" else None)
        return vector


def _first(values: Tensor, length: int) -> Tensor:
    """Take off the padding; a slice of everything would still copy its gradient."""
    return values if len(values) == length else values[:length]


def _wait(output: KeyedTensor | Awaitable) -> KeyedTensor:
    """Return what a collection answers; a sharded one answers with an awaitable."""
    return output.wait() if isinstance(output, Awaitable) else output


def _by_key(keyed: KeyedTensor) -> dict[str, Tensor]:
    """Return the vectors of each lookup.

    It is one split, whose backward is one concatenation: indexing by key would add F gradients of full width.
    """
    return dict(zip(keyed.keys(), keyed.values().split(keyed.length_per_key(), dim=1), strict=True))
