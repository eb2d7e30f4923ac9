"""A checkpoint is one safetensors file of logical tensors and a JSON header; nothing is unpickled.

table/<name>       [num_embeddings, embedding_dim]     weights of a physical table
optimizer/<name>   [num_embeddings]                    its rowwise Adagrad state
dense/<parameter>                                      everything else
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchrec.distributed import DistributedModelParallel

from recsys_cython_ext import HASH_VERSION

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model, scheme or hash version."""


def logical_state(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Copy all tensors of a model sharded on one rank, under their logical names."""
    state = {}
    for name, value in model.state_dict().items():
        if (table := _table_of(name)) is not None:
            state[f"table/{table}"] = _local(value).clone()
        else:
            state[f"dense/{name}"] = value.detach().clone()
    for name, entries in model.fused_optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if key.endswith(".momentum1"):
                state[f"optimizer/{_table_of(name)}"] = _local(value).clone()
    return state


def restore(model: DistributedModelParallel, state: dict[str, Tensor]) -> None:
    """Copy `logical_state` back into a model sharded on one rank.

    Raises CheckpointError naming the first tensor that is missing, unknown or of another shape.
    """
    live = model.state_dict()
    targets = {
        f"dense/{name}" if _table_of(name) is None else f"table/{_table_of(name)}": _local(value)
        for name, value in live.items()
    }
    for name, entries in model.fused_optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if key.endswith(".momentum1"):
                targets[f"optimizer/{_table_of(name)}"] = _local(value)
    if odd := sorted(targets.keys() ^ state.keys()):
        side = "the checkpoint lacks it" if odd[0] in targets else "the model has no such tensor"
        raise CheckpointError(f"{odd[0]}: {side}; it was written by another model or scheme")
    for name, target in targets.items():
        if target.shape != state[name].shape:
            raise CheckpointError(
                f"{name}: the checkpoint's shape is {tuple(state[name].shape)}, the model's {tuple(target.shape)}"
            )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def save(path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write `state` with `about` (JSON-able) in its header, under a temporary name first."""
    header: dict[str, Any] = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION, **about}
    state = {name: value.contiguous().cpu() for name, value in state.items()}
    partial = path.with_name(path.name + ".tmp")
    # one entry, for safetensors writes several in an order that changes
    save_file(state, partial, {"recsys": json.dumps({**header, "blake2b": _checksum(header, state)})})
    partial.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state, header). Raises CheckpointError on a damaged file or another version."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["recsys"])
            checksum = header.pop("blake2b", None)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint of this project ({error})") from None
    if checksum != _checksum(header, state):
        raise CheckpointError(
            f"{path}: not a whole checkpoint of this project (its checksum is wrong); train again"
        )
    for name, mine in (("format_version", FORMAT_VERSION), ("hash_version", HASH_VERSION)):
        if header[name] != mine:
            raise CheckpointError(
                f"{path}: {name} {header[name]}, but this program reads {mine}; train again"
            )
    return state, header


def _checksum(header: dict[str, Any], state: dict[str, Tensor]) -> str:
    """BLAKE2b of the header and of every tensor's name, form and bytes; safetensors itself has none."""
    digest = hashlib.blake2b(json.dumps(header).encode(), digest_size=16)
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        digest.update(state[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _table_of(name: str) -> str | None:
    """'engine.collections.….embedding_bags.c1/full.weight' -> 'c1/full'; None for dense parameters."""
    _, found, rest = name.partition("embedding_bags.")
    return rest.removesuffix(".weight") if found else None


def _local(value: Any) -> Tensor:
    """Return the one local shard of a ShardedTensor, or a plain tensor."""
    return value.local_shards()[0].tensor.detach() if hasattr(value, "local_shards") else value.detach()
