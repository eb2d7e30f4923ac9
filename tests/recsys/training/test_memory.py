"""A process that waits for its next training does not keep the memory of the last one."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from recsys.training.distributed import give_memory_back, keep_memory

MB = 2**20


def own_bytes() -> int:
    """Memory of this process that is no page of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives freed memory back when asked")
def test_what_is_freed_goes_back_to_the_system() -> None:
    blocks = [bytearray(60_000) for _ in range(4_000)]  # too small for maps of their own
    last = bytearray(60_000)  # holds the end of the heap
    cycle = [blocks]
    cycle.append(cycle)  # type: ignore[arg-type]
    held = own_bytes()
    del blocks, cycle
    give_memory_back()
    assert held - own_bytes() > 150 * MB
    assert len(last) == 60_000


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc lets its heap be set")
def test_a_step_finds_the_memory_of_the_last_one() -> None:
    keep_memory()

    def pages_of_a_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [torch.ones(2**20) for _ in range(32)]
        del activations
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages_of_a_step()
    assert min(pages_of_a_step() for _ in range(5)) < 4_000  # of 32,768
