"""A batch as the tables read it: it holds row numbers for each collection, and the bags that combining needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recsys_tables.engine.bags import Bag


@dataclass(frozen=True)
class BatchRows(Pipelineable):
    """Row numbers and bags that `EmbeddingEngine.rows` makes of a batch, without a collective: a loader's thread can.

    by_group: row numbers, a key for each lookup, by the name of the collection that reads them.
    bags: one per field, in the engine's order.
    num_bags: bags of every key, by collection; ranks must agree on each (`padded`).
    """

    by_group: Mapping[str, KeyedJaggedTensor]
    bags: tuple[Bag, ...]
    num_bags: Mapping[str, int]

    def padded(self, num_bags: Sequence[int]) -> "BatchRows":
        """Add empty bags at the end of every key, up to `num_bags` of each collection in turn."""
        if tuple(num_bags) == tuple(self.num_bags.values()):
            return self
        bags_of = dict(zip(self.num_bags, num_bags, strict=True))
        return replace(
            self,
            by_group={name: _padded(rows, bags_of[name]) for name, rows in self.by_group.items()},
            num_bags=bags_of,
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> "BatchRows":
        """Move every tensor; nothing to do where they are."""
        if self.bags[0].ids.device == device:
            return self
        return replace(
            self,
            by_group={name: rows.to(device, non_blocking) for name, rows in self.by_group.items()},
            bags=tuple(bag.to(device, non_blocking) for bag in self.bags),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory of every tensor until `stream` has done with it."""
        for rows in self.by_group.values():
            rows.record_stream(stream)
        for bag in self.bags:
            bag.record_stream(stream)


def _padded(rows: KeyedJaggedTensor, num_bags: int) -> KeyedJaggedTensor:
    lengths = rows.lengths().view(len(rows.keys()), -1)
    missing = num_bags - lengths.shape[1]
    if not missing:
        return rows
    return KeyedJaggedTensor(
        keys=rows.keys(),
        values=rows.values(),
        weights=rows.weights_or_none(),
        lengths=_with_zeros(lengths, missing).reshape(-1),
        stride=num_bags,
        length_per_key=rows.length_per_key(),
        offset_per_key=rows.offset_per_key(),
    )


def _with_zeros(lengths: Tensor, missing: int) -> Tensor:
    return nn.functional.pad(lengths, (0, missing))
