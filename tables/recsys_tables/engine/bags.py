"""The bags of a batch: how it is taken apart by field, what is checked, and the sums over bags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from recsys_tables.field import Field
from recsys_tables.out_of_range import in_range


@dataclass(frozen=True)
class Bag:
    """One feature of a batch: ids [L], how many of them each sample holds, lengths [B], and weights [L] or None."""

    ids: Tensor
    lengths: Tensor
    weights: Tensor | None

    def divisor(self) -> Tensor:
        """Return what a mean divides by, [B]: the number of ids, or their total weight; 0 makes a mean of 0."""
        if self.weights is None:
            return self.lengths.clamp(min=1)
        total = sum_bags(self.weights, self.lengths)
        return torch.where(total == 0, torch.inf, total)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Bag":
        """Move every tensor."""
        ids, lengths = (x.to(device, non_blocking=non_blocking) for x in (self.ids, self.lengths))
        return Bag(
            ids,
            lengths,
            None if self.weights is None else self.weights.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory of every tensor until `stream` has done with it."""
        for values in (self.ids, self.lengths, self.weights):
            if values is not None:
                values.record_stream(stream)


def split(fields: Sequence[Field], ids: KeyedJaggedTensor) -> list[Bag]:
    """Check a batch and split it by field; see `EmbeddingEngine` for what is refused."""
    _check_batch(fields, ids)
    lengths = ids.lengths().view(len(ids.keys()), -1)
    key_of = {key: position for position, key in enumerate(ids.keys())}
    order = [key_of[field.feature] for field in fields]
    _check_single_valued(fields, numpy_on_cpu(lengths), order)
    offsets = ids.offset_per_key()
    weights = ids.weights_or_none()
    return [
        Bag(
            _ids_in_range(field, ids.values()[offsets[key] : offsets[key + 1]]),
            lengths[key],
            weights[offsets[key] : offsets[key + 1]].detach().float()
            if weights is not None and field.weighted
            else None,
        )
        for field, key in zip(fields, order, strict=True)
    ]


def pool(field: Field, bag: Bag, vectors: Tensor) -> Tensor:
    """Weigh, sum and divide vectors of single ids [L, D] as the field says; a sequence is not summed."""
    if bag.weights is not None:
        vectors = vectors * bag.weights[:, None]
    if field.pooling == "none":
        return vectors
    return average(field, bag, sum_bags(vectors, bag.lengths))


def average(field: Field, bag: Bag, sums: Tensor) -> Tensor:
    """Divide the sums of bags [B, D], if the field's mean is wanted."""
    return sums / bag.divisor().to(sums.dtype)[:, None] if field.averages else sums


def sum_bags(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum [L, …] over bags of `lengths` [B] -> [B, …]."""
    if len(lengths) == 0:
        return values[
            :0
        ]  # segment_reduce takes no batch of 0; a slice keeps the graph that other ranks wait for
    return torch.segment_reduce(values, "sum", lengths=lengths, initial=0)


def numpy_on_cpu(values: Tensor) -> Any:
    """Return a tensor of the CPU as an array, for kernels in Cython read these and NumPy leaves cores to training.

    Elsewhere it stays a tensor, and the torch forms run.
    """
    return values.numpy() if values.device.type == "cpu" else values


def first_of(wrong: Any) -> int:
    """Return the position of the first True of a NumPy array or a tensor [n]."""
    return int(torch.as_tensor(wrong).nonzero()[0, 0])


def _check_batch(fields: Sequence[Field], ids: KeyedJaggedTensor) -> None:
    """Raise ValueError unless a batch has the fields' features as keys, and weights where some field is weighted."""
    features = [field.feature for field in fields]
    keys = set(ids.keys())
    missing = [feature for feature in features if feature not in keys]
    extra = sorted(keys.difference(features))
    if missing or extra:
        raise ValueError(f"the batch lacks features {missing} and has unknown features {extra}")
    if len(keys) != len(ids.keys()):
        raise ValueError(f"the batch names a feature twice: {ids.keys()}")
    weights = ids.weights_or_none()
    _check_lengths(ids, weights)
    weighted = [field.feature for field in fields if field.weighted]
    if (weights is None) != (not weighted):
        raise ValueError(
            "the bags carry weights, but no field is declared weighted"
            if weights is not None
            else f"features {weighted} are declared weighted, but the batch carries no weights"
        )
    if weights is not None:
        _check_weights(fields, ids, weights)


def _check_lengths(ids: KeyedJaggedTensor, weights: Tensor | None) -> None:
    """Raise ValueError unless lengths are F × B, not negative, and add up to the ids and to the weights."""
    lengths, features = numpy_on_cpu(ids.lengths()), len(ids.keys())
    if ids.variable_stride_per_key() or len(lengths) % features:
        raise ValueError(
            f"the batch's {len(lengths)} lengths are not as many for each of {features} features"
        )
    if bool((lengths < 0).any()):
        position = first_of(lengths < 0)
        feature, sample = divmod(position, len(lengths) // features)
        raise ValueError(
            f"feature {ids.keys()[feature]!r}: sample {sample} has length {int(lengths[position])}"
        )
    total = int(lengths.sum())
    for values, name in ((ids.values(), "ids"), (weights, "weights")):
        if values is not None and values.shape != (total,):
            number = len(values) if values.ndim == 1 else f"an array {list(values.shape)} of"
            raise ValueError(f"the batch's lengths add up to {total}, but it holds {number} {name}")


def _check_single_valued(fields: Sequence[Field], lengths: Any, order: Sequence[int]) -> None:
    """Raise ValueError naming the first single-valued feature, row `order` of lengths [F, B], that is not all 1."""
    if bool((lengths == 1).all()):
        return
    for field, row in zip(fields, order, strict=True):
        if field.multivalued or bool((lengths[row] == 1).all()):
            continue
        sample = first_of(lengths[row] != 1)
        raise ValueError(
            f"feature {field.feature!r} is single-valued, but sample {sample} holds "
            f"{int(lengths[row, sample])} ids; declare it multivalued, or give the missing id"
        )


def _check_weights(fields: Sequence[Field], ids: KeyedJaggedTensor, weights: Tensor) -> None:
    """Raise ValueError naming the first weight that is not finite, or not 1 where none is declared."""
    weighted = {field.feature: field.weighted for field in fields}
    offsets = ids.offset_per_key()
    for position, feature in enumerate(ids.keys()):
        of_feature = weights[offsets[position] : offsets[position + 1]]
        values = of_feature.float()  # as they are used: 1e39 is infinite
        bad = ~torch.isfinite(values) if weighted[feature] else values != 1
        if bool(bad.any()):
            at = first_of(bad)
            why = (
                "must be finite"
                if weighted[feature]
                else "must be 1, for the feature is not declared weighted"
            )
            raise ValueError(f"feature {feature!r}: weight {float(values[at])} at position {at} {why}")


def _ids_in_range(field: Field, ids: Tensor) -> Tensor:
    """Check the ids of a feature, and apply its policy to those outside its scheme's space."""
    if ids.dtype != torch.int64:
        raise ValueError(f"feature {field.feature!r}: ids are {ids.dtype}, not torch.int64")
    if field.scheme.num_ids is None:
        return ids
    return torch.as_tensor(in_range(field.scheme, numpy_on_cpu(ids), field.out_of_range, field.oov_id))
