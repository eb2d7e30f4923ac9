"""The device of a rank, and the memory there that it may fill with tables. torch is imported where it is asked."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def default_device() -> "torch.device":
    """Return the current CUDA device if there is one, else the CPU."""
    import torch

    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def memory_of_rank(device: "torch.device", world_size: int) -> int:
    """Return the bytes of the rank's own GPU, or its share of the machine, or of the container that it runs in."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # launchers of several machines say
    return machine_memory() // on_this_machine


def machine_memory() -> int:
    """Return the bytes of the machine, or of the container that this process runs in."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *container_limits()])


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the bytes that cgroups (version 2, version 1) let this container use, where they are limited."""
    texts = [
        file.read_text().strip()
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        if (file := root / name).is_file()
    ]
    return [int(text) for text in texts if text.isdigit()]
