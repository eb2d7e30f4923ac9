"""The engine: the one module that knows TorchRec's collections.

    ids: KeyedJaggedTensor ──rows──▶ BatchRows ──EmbeddingBagCollections──▶ vectors ──Combiner──▶ Embeddings

It is an ordinary nn.Module. Wrapped in `DistributedModelParallel` its collections are sharded like any
other TorchRec collection; used alone they are plain FBGEMM-free tables with dense gradients.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_configs import DataType

from recsys_tables.engine.bags import Bag, numpy_on_cpu, split
from recsys_tables.engine.batch_rows import BatchRows
from recsys_tables.engine.combiner import Combiner
from recsys_tables.engine.embeddings import Embeddings
from recsys_tables.engine.groups import Group, group_fields
from recsys_tables.field import Field
from recsys_tables.lookup import pooled
from recsys_tables.out_of_range import in_range
from recsys_tables.scheme import Lookup, Precision, Scheme, Table, unique_tables

_REFUSED = 2**62  # what a rank that cannot use its batch tells the others in place of a number of bags


class EmbeddingEngine(nn.Module):
    """A module that makes vectors of `fields` for a batch of ids.

    Linear schemes are looked up pooled: the n rows of an id join its bag, so combining is free. In a
    non-linear scheme (a product), and in a sequence, every id gets a bag of its own; it is combined, weighted,
    and then summed by the bag's true length. Every physical table is SUM; MEAN divides here, because n lookups
    per id would put TorchRec's MEAN off by n (and FBGEMM's weighted mean ignores the weights' sum).

    Args:
        fields: one per feature; features of one shared table name the same table.
        device: where tables are made; `meta` when DistributedModelParallel will materialise them.
        precision: of the weights of all tables; fp16 needs the kernels of tables that are sharded. Vectors are fp32.

    Call:
        ids: KeyedJaggedTensor of int64 ids with exactly the fields' features as keys, B samples, and weights
            if and only if some field is `weighted`. Returns `Embeddings`.

        features    values           lengths       e.g. B = 2, "genre" multi-valued:
        user        [7, 9]           [1, 1]        sample 0: user 7, genres {1, 4}
        genre       [1, 4, 4]        [2, 1]        sample 1: user 9, genres {4}

    Raises ValueError, naming feature, position and value, on missing or extra keys, ids outside a
    scheme's id space, bags of a single-valued feature that do not hold one id, lengths that do not add up,
    and weights that are missing, unexpected or not finite.

    On several ranks the batches may differ in size: ranks agree on the largest and pad with empty bags, which
    is exact, because row-wise sharding needs equally many everywhere. That is one all-reduce of a few integers.
    """

    def __init__(
        self, fields: Sequence[Field], device: torch.device | None = None, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.features = tuple(field.feature for field in fields)
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features are declared twice: {self.features}")
        self.embedding_dims = [field.scheme.embedding_dim for field in fields]
        for field in fields:
            if not field.scheme.tables():
                raise ValueError(
                    f"feature {field.feature!r}: {type(field.scheme).__name__} has no tables: use DeepHashEmbedding"
                )
            if field.scheme.linear and field.scheme.aux(np.empty(0, np.int64)) is not None:
                raise ValueError(
                    f"feature {field.feature!r}: {type(field.scheme).__name__} says it is linear, but `aux` is of "
                    "single ids, which a pooled bag no longer shows"
                )
        if precision != "fp32" and (device is None or device.type != "meta"):
            raise ValueError(
                f"tables in {precision} are trained by the kernels of sharded ones only: make the engine on the device "
                "`meta`, and shard it (`recsys_tables.distributed.sharding.shard`)"
            )
        self.tables: tuple[Table, ...] = unique_tables([field.scheme for field in fields], precision)
        self._keys = [_lookup_keys(field.scheme) for field in fields]
        self.groups = group_fields(fields)
        self.combiner = Combiner(fields, self.groups, self._keys)
        self.collections = nn.ModuleDict(
            {group.name: self._collection(group, device) for group in self.groups}
        )

    def rows_per_sample(self, bag_lengths: Mapping[str, float]) -> dict[str, list[float]]:
        """Return how many rows each key of each table looks up for a sample.

        bag_lengths: mean ids per sample of a feature, 1 unless given.
        """
        rows: dict[str, list[float]] = {}
        for field, keys in zip(self.fields, self._keys, strict=True):
            structure = field.scheme.rows(np.empty(0, np.int64))
            for (_, table), lookup in zip(keys, structure, strict=True):
                rows.setdefault(table, []).append(bag_lengths.get(field.feature, 1.0) * lookup.rows.shape[1])
        return rows

    def vectors_of(self, feature: str, ids: np.ndarray, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return vectors [L, D] of int64 ids [L] of a feature, one by one, from whole physical tables by name.

        Ids outside the scheme's space are treated as in a batch.
        """
        position = self.features.index(feature)
        field = self.fields[position]
        scheme = field.scheme
        ids = in_range(scheme, ids, field.out_of_range, field.oov_id)
        combine = self.combiner.combines[position]
        device = next(itertools.chain(combine.parameters(), combine.buffers()), torch.empty(0)).device
        aux = scheme.aux(ids)
        more = () if aux is None else (torch.from_numpy(aux).to(device),)
        looked_up = [
            torch.from_numpy(pooled(tables[item.table], item)).to(device) for item in scheme.rows(ids)
        ]
        with torch.no_grad():
            return combine(looked_up, *more).cpu().numpy()

    def forward(self, ids: KeyedJaggedTensor) -> Embeddings:
        """Look up, combine and pool; see the class."""
        try:
            rows = self.rows(ids)
        except ValueError:
            self._agreed(
                [_REFUSED] * len(self.groups), ids.values().device
            )  # the other ranks wait for this one
            raise
        num_bags = self._agreed(list(rows.num_bags.values()), ids.values().device)
        if _REFUSED in num_bags:
            raise ValueError("another rank refused its part of the batch; its own error says why")
        return self.look_up(rows.padded(num_bags))

    def rows(self, ids: KeyedJaggedTensor) -> BatchRows:
        """Return a batch's row numbers: all that comes before the tables, without a collective.

        Raises ValueError as the class says.
        """
        bags = split(self.fields, ids)
        lookups = [
            field.scheme.rows(numpy_on_cpu(bag.ids)) for field, bag in zip(self.fields, bags, strict=True)
        ]
        num_bags = {
            group.name: max(
                1,  # TorchRec takes no batch of 0
                *(len(bags[i].ids) if group.bag_per_id else ids.stride() for i in group.fields),
            )
            for group in self.groups
        }
        by_group = {
            group.name: self._to_rows(group, bags, lookups, num_bags[group.name]) for group in self.groups
        }
        return BatchRows(by_group, tuple(bags), num_bags)

    def look_up(self, rows: BatchRows) -> Embeddings:
        """Return the vectors of a batch whose numbers of bags the ranks agree on. TorchRec's pipelines can trace this."""
        looked_up = {
            group.name: self.collections[group.name](rows.by_group[group.name]) for group in self.groups
        }
        return self.combiner(looked_up, rows)

    def _collection(self, group: Group, device: torch.device | None) -> EmbeddingBagCollection:
        keys_of: dict[str, list[str]] = {}
        for position in group.fields:
            for key, table in self._keys[position]:
                keys_of.setdefault(table, []).append(key)
        tables = [_bag_config(table, keys_of[table.name]) for table in self.tables if table.name in keys_of]
        return EmbeddingBagCollection(tables=tables, is_weighted=group.weighted, device=device)

    def _agreed(self, numbers: list[int], device: torch.device) -> list[int]:
        """Return the largest numbers of all ranks, where there are several."""
        sharded = any(isinstance(collection, ShardedModule) for collection in self.collections.values())
        if not sharded or dist.get_world_size() == 1:
            return numbers
        agreed = torch.tensor(numbers, device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return agreed.tolist()

    def _to_rows(
        self, group: Group, bags: Sequence[Bag], lookups: Sequence[tuple[Lookup, ...]], num_bags: int
    ) -> KeyedJaggedTensor:
        """Return one collection's row numbers: n rows of an id are neighbours in its bag, empty bags come last."""
        keys, rows, lengths, weights = [], [], [], []
        for position in group.fields:
            bag = bags[position]
            in_bag = torch.ones_like(bag.ids) if group.bag_per_id else bag.lengths
            in_bag = _padded(in_bag.to(torch.int32), num_bags)
            for (key, _), lookup in zip(self._keys[position], lookups[position], strict=True):
                n = lookup.rows.shape[1]
                keys.append(key)
                rows.append(lookup.rows.reshape(-1))
                lengths.append(numpy_on_cpu(in_bag if n == 1 else in_bag * n))
                if group.weighted:
                    # elsewhere they multiply what `combine` makes of the rows: a product would square them
                    applies = self.fields[position].weighs_rows and not group.bag_per_id
                    weights.append(_row_weights(lookup, bag.weights if applies else None))
        sizes = [len(numbers) for numbers in rows]
        return KeyedJaggedTensor(  # with all that `sync` would compute
            keys=keys,
            values=_concatenated(rows),
            weights=torch.cat(weights) if group.weighted else None,
            lengths=_concatenated(lengths),
            stride=num_bags,
            length_per_key=sizes,
            offset_per_key=[0, *itertools.accumulate(sizes)],
        )


def engine_of(module: nn.Module) -> EmbeddingEngine:
    """Return the one engine in a model, sharded or not. Raises ValueError when there is none, or more."""
    engines = [child for child in module.modules() if isinstance(child, EmbeddingEngine)]
    if len(engines) != 1:
        raise ValueError(f"the model holds {len(engines)} embedding engines, not one")
    return engines[0]


def _padded(lengths: Tensor, num_bags: int) -> Tensor:
    """Add empty bags at the end, [num_bags]."""
    missing = num_bags - len(lengths)
    return nn.functional.pad(lengths, (0, missing)) if missing else lengths


def _concatenated(parts: list[Any]) -> Tensor:
    """Concatenate NumPy arrays, or tensors, [n] each."""
    return torch.from_numpy(np.concatenate(parts)) if isinstance(parts[0], np.ndarray) else torch.cat(parts)


def _row_weights(lookup: Lookup, factor: Tensor | None) -> Tensor:
    """Return the weights of a lookup's rows, [L · n]: the scheme's constants times the batch's, 1 where there are none."""
    ones = torch.ones(lookup.rows.shape, device=torch.as_tensor(lookup.rows).device)
    weights = ones if lookup.weights is None else torch.as_tensor(lookup.weights)
    return (weights if factor is None else weights * factor[:, None]).reshape(-1)


def _lookup_keys(scheme: Scheme) -> list[tuple[str, str]]:
    """Return (key, table) of each lookup: TorchRec sees every lookup as a feature of its own."""
    structure = scheme.rows(np.empty(0, np.int64))
    return [(f"{scheme.feature}/{j}", lookup.table) for j, lookup in enumerate(structure)]


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
        data_type=DataType[table.precision.upper()],
    )
