"""Agreement of ranks: all go on, or all fail, for one that raised by itself would leave the others waiting for it."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from safetensors import SafetensorError

Result = TypeVar("Result")


class OtherRankFailed(ValueError):
    """Another rank could not do its part; the message quotes it."""


def agree(work: Callable[[], Result], group: dist.ProcessGroup | None = None) -> Result:
    """Do `work` on every rank of a group, and let all of them fail where one does.

    Raises the rank's own ValueError or OSError, or on the others an OtherRankFailed that quotes it.
    """
    failure: Exception | None = None
    try:
        result = work()
    except (ValueError, OSError, SafetensorError) as error:
        failure = error
    messages: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, None if failure is None else str(failure), group)
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message is not None:
            raise OtherRankFailed(f"rank {rank}: {message}")
    return result
