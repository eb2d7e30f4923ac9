"""The memory that a rank may fill with tables."""

import os
from pathlib import Path

import torch


def memory_of_rank(device: torch.device, world_size: int) -> int:
    """Return the bytes of the rank's own GPU, or its share of the machine, or of the container that it runs in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # launchers of several machines say
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *container_limits()]) // on_this_machine


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the bytes that cgroups (version 2, version 1) let this container use, where they are limited."""
    texts = [
        file.read_text().strip()
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        if (file := root / name).is_file()
    ]
    return [int(text) for text in texts if text.isdigit()]
