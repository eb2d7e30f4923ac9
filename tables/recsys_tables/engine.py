"""The engine: the one module that knows TorchRec.

    ids: KeyedJaggedTensor ──to_rows──▶ row numbers ──EmbeddingBagCollection──▶ vectors ──combine──▶ KeyedTensor

It is an ordinary nn.Module. Wrapped in `DistributedModelParallel` its collections are sharded like any
other TorchRec collection; used alone they are plain FBGEMM-free tables with dense gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor, PoolingType
from torchrec.distributed.types import Awaitable

from recsys_tables.scheme import Lookup, Scheme, Table, check_ids, unique_tables

SHARED = ""  # the collection of every field that needs no bags of its own; no feature has this name


@dataclass(frozen=True)
class Field:
    """A feature of the model: its scheme, and how a bag of its ids becomes one vector.

    `multivalued=False` promises exactly one id per sample, which is checked.
    """

    scheme: Scheme
    pooling: Literal["sum", "mean"] = "sum"
    multivalued: bool = False


class EmbeddingEngine(nn.Module):
    """Vectors of `fields` for a batch of ids.

    Linear schemes are looked up pooled: the n rows of an id join its bag, so combining is free. In a
    non-linear scheme (a product) every id gets a bag of its own, is combined, and then summed by the
    bag's true length. Every physical table is SUM; MEAN divides by the true length here, because n
    lookups per id would put TorchRec's MEAN off by n.

    Args:
        fields: one per feature; features of one shared table name the same table.
        device: where tables are made; `meta` when DistributedModelParallel will materialise them.

    Call:
        ids: KeyedJaggedTensor of int64 ids with exactly the fields' features as keys, B samples.
        Returns a KeyedTensor with the features as keys, in the fields' order, values [B, Σ D].

        features    values           lengths       e.g. B = 2, "genre" multi-valued:
        user        [7, 9]           [1, 1]        sample 0: user 7, genres {1, 4}
        genre       [1, 4, 4]        [2, 1]        sample 1: user 9, genres {4}

    Raises ValueError, naming feature, position and value, on missing or extra keys, ids outside a
    scheme's id space, bags of a single-valued feature that do not hold one id, and weighted bags.
    """

    def __init__(self, fields: Sequence[Field], device: torch.device | None = None) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.features = tuple(field.scheme.feature for field in fields)
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features are declared twice: {self.features}")
        self.embedding_dims = [field.scheme.embedding_dim for field in fields]
        tables = {table.name: table for table in unique_tables([field.scheme for field in fields])}
        self.combines = nn.ModuleList(field.scheme.combine() for field in fields)
        self._keys = [self._lookup_keys(field.scheme) for field in fields]
        self._group = [SHARED if _needs_no_bags(field) else field.scheme.feature for field in fields]
        self.collections = nn.ModuleDict()
        owner: dict[str, str] = {}
        for group in dict.fromkeys(self._group):
            features_of: dict[str, list[str]] = {}
            for keys, field_group in zip(self._keys, self._group, strict=True):
                for key, table in keys if field_group == group else []:
                    features_of.setdefault(table, []).append(key)
            for table in features_of:
                if owner.setdefault(table, group) != group:
                    raise ValueError(f"table {table!r} is shared by pooled and by unpooled features")
            self.collections[f"{group}/tables"] = EmbeddingBagCollection(
                tables=[_bag_config(tables[name], keys) for name, keys in features_of.items()],
                device=device,
            )

    @property
    def tables(self) -> tuple[Table, ...]:
        """The physical tables, each once."""
        return unique_tables([field.scheme for field in self.fields])

    def forward(self, ids: KeyedJaggedTensor) -> KeyedTensor:
        """Look up, combine and pool; see the class."""
        self._check_keys(ids)
        batch_size = ids.stride()
        bags = self._bags(ids)
        lookups = [_lookups(field, bag) for field, bag in zip(self.fields, bags, strict=True)]
        looked_up = {
            group: _by_key(self.collections[f"{group}/tables"](self._to_rows(group, bags, lookups)))
            for group in dict.fromkeys(self._group)
        }
        vectors = []
        for position, field in enumerate(self.fields):
            group = self._group[position]
            keyed = looked_up[group]
            vector = self.combines[position]([keyed[key] for key, _ in self._keys[position]])
            ids_of_field, lengths = bags[position].values, bags[position].lengths
            if group != SHARED:
                vector = torch.segment_reduce(vector[: len(ids_of_field)], "sum", lengths=lengths, initial=0)
            if field.pooling == "mean" and field.multivalued:
                vector = vector / lengths.clamp(min=1).to(vector.dtype)[:, None]
            vectors.append(vector)
        values = torch.cat(vectors, dim=1)[:batch_size]
        return KeyedTensor(keys=list(self.features), length_per_key=self.embedding_dims, values=values)

    def _bags(self, ids: KeyedJaggedTensor) -> "list[_Bag]":
        """Split a batch by feature. An empty batch becomes one empty bag, so that every rank looks up."""
        lengths = ids.lengths().view(len(ids.keys()), -1)
        key_of = {key: position for position, key in enumerate(ids.keys())}
        order = [key_of[feature] for feature in self.features]
        _check_single_valued(self.fields, lengths[order])
        if ids.stride() == 0:
            lengths = lengths.new_zeros(len(ids.keys()), 1)
        offsets = ids.offset_per_key()
        return [_Bag(ids.values()[offsets[key] : offsets[key + 1]], lengths[key]) for key in order]

    def _lookup_keys(self, scheme: Scheme) -> list[tuple[str, str]]:
        """(key, table) of each lookup: TorchRec sees every lookup as a feature of its own."""
        structure = scheme.rows(np.empty(0, np.int64))
        return [(f"{scheme.feature}/{j}", lookup.table) for j, lookup in enumerate(structure)]

    def _to_rows(
        self, group: str, bags: "Sequence[_Bag]", lookups: Sequence[tuple[Lookup, ...]]
    ) -> KeyedJaggedTensor:
        """Row numbers of one collection: n rows of an id are neighbours in its bag."""
        keys, values, lengths = [], [], []
        for position, field_group in enumerate(self._group):
            if field_group != group:
                continue
            bag = bags[position]
            for (key, _), lookup in zip(self._keys[position], lookups[position], strict=True):
                per_id = lookup.rows.shape[1]
                rows = torch.as_tensor(lookup.rows)
                keys.append(key)
                values.append(rows.reshape(-1))
                lengths.append(bag.lengths * per_id if group == SHARED else _own_bags(bag, per_id))
        return KeyedJaggedTensor.from_lengths_sync(
            keys=keys, values=torch.cat(values), lengths=torch.cat(lengths)
        )

    def _check_keys(self, ids: KeyedJaggedTensor) -> None:
        given = set(ids.keys())
        missing = [feature for feature in self.features if feature not in given]
        extra = sorted(given.difference(self.features))
        if missing or extra:
            raise ValueError(f"the batch lacks features {missing} and has unknown features {extra}")
        if ids.weights_or_none() is not None:
            raise ValueError("the bags carry weights, which this engine does not take; remove them")


@dataclass(frozen=True)
class _Bag:
    """One feature of a batch: ids [L], and how many of them each sample holds, lengths [B]."""

    values: Tensor
    lengths: Tensor


def _check_single_valued(fields: Sequence[Field], lengths: Tensor) -> None:
    """Raise ValueError naming the first single-valued feature whose lengths [F, B] are not all 1."""
    wrong = (lengths != 1) & ~torch.tensor([f.multivalued for f in fields], device=lengths.device)[:, None]
    if not bool(wrong.any()):
        return
    field, sample = wrong.nonzero()[0].tolist()
    raise ValueError(
        f"feature {fields[field].scheme.feature!r} is single-valued, but sample {sample} holds "
        f"{int(lengths[field, sample])} ids; declare it multivalued, or give the missing id"
    )


def _lookups(field: Field, bag: _Bag) -> tuple[Lookup, ...]:
    """Check the ids of a feature and turn them into row numbers."""
    feature = field.scheme.feature
    if bag.values.dtype != torch.int64:
        raise ValueError(f"feature {feature!r}: ids are {bag.values.dtype}, not torch.int64")
    ids = bag.values.numpy() if bag.values.device.type == "cpu" else bag.values
    check_ids(field.scheme, ids)
    return field.scheme.rows(ids)


def _own_bags(bag: _Bag, per_id: int) -> Tensor:
    """Lengths that give each id its own bag, and one empty bag more: TorchRec takes no batch of 0 bags."""
    lengths = bag.lengths.new_full((len(bag.values) + 1,), per_id)
    lengths[-1] = 0
    return lengths


def _needs_no_bags(field: Field) -> bool:
    """Bags of exactly one id are already unpooled, so a single-valued field joins the shared collection."""
    return field.scheme.linear or not field.multivalued


def _by_key(output: KeyedTensor | Awaitable) -> dict[str, Tensor]:
    """Vectors of each lookup. A sharded collection answers with an awaitable.

    One split, whose backward is one concatenation: indexing by key would add F gradients of full width.
    """
    keyed = output.wait() if isinstance(output, Awaitable) else output
    return dict(zip(keyed.keys(), keyed.values().split(keyed.length_per_key(), dim=1), strict=True))


def _bag_config(table: Table, keys: list[str]) -> EmbeddingBagConfig:
    def init(weight: Tensor) -> Tensor:
        return nn.init.uniform_(weight, -table.init_bound, table.init_bound)

    return EmbeddingBagConfig(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        feature_names=keys,
        pooling=PoolingType.SUM,
        init_fn=init,
    )
