"""How fast this machine multiplies matrices and gathers rows, which are what a training step waits for."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from recsys.models.linear import Linear
from recsys_cython_ext.threads import available_cores

ROWS, WIDTH = 4_194_304, 16  # of a table of 256 MiB, more than the caches hold
BATCH, HIDDEN = 4096, 512  # samples, and the widths of a layer
BAGS, BAG = 1 << 14, 16  # that are looked up at a time
PAYS = (
    1.2  # times as fast must products be, for a step in bfloat16 also converts, and does what is no product
)


@dataclass(frozen=True)
class Speed:
    """What a number of threads does in a second: 10⁹ operations of matrix products, and rows of 64 bytes."""

    threads: int
    fp32_gflops: float
    bf16_gflops: float
    gathered_rows: float


@dataclass(frozen=True)
class Machine:
    """The speeds of one thread and of all that this process may use."""

    speeds: tuple[Speed, ...]

    @property
    def bf16_gain(self) -> float:
        """Return how many times as fast products are in bfloat16, on however many threads."""
        return min(speed.bf16_gflops / speed.fp32_gflops for speed in self.speeds)

    @property
    def bf16_pays(self) -> bool:
        """Tell whether a training with `training.precision: bf16` is faster."""
        return self.bf16_gain >= PAYS

    @property
    def sentence(self) -> str:
        """Say whether bfloat16 pays."""
        verdict = "pays" if self.bf16_pays else "does not pay"
        return (
            f"training.precision: bf16 {verdict} on this CPU: its matrix products are {self.bf16_gain:.1f} times as fast "
            "as fp32's"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "bf16_gain": self.bf16_gain, "bf16_pays": self.bf16_pays}


def measure(seconds: float = 0.2, rows: int = ROWS) -> Machine:
    """Measure products and gathers from a table of so many rows, each for some `seconds`."""
    before = torch.get_num_threads()
    table, bags = torch.ones(rows, WIDTH), torch.randint(rows, (BAGS, BAG))
    try:
        return Machine(
            tuple(_speed(threads, table, bags, seconds) for threads in sorted({1, available_cores()}))
        )
    finally:
        torch.set_num_threads(before)


def _speed(threads: int, table: torch.Tensor, bags: torch.Tensor, seconds: float) -> Speed:
    torch.set_num_threads(threads)
    return Speed(
        threads,
        fp32_gflops=_gflops(torch.float32, seconds),
        bf16_gflops=_gflops(torch.bfloat16, seconds),
        gathered_rows=bags.numel()
        / _shortest(lambda: torch.nn.functional.embedding_bag(bags, table, mode="sum"), seconds),
    )


def _gflops(precision: torch.dtype, seconds: float) -> float:
    layer, inputs = (
        Linear(HIDDEN, HIDDEN, bias=False).to(precision),
        torch.ones(BATCH, HIDDEN, dtype=precision),
    )
    with torch.no_grad():
        passed = _shortest(lambda: layer(inputs), seconds)
    return 2 * BATCH * HIDDEN * HIDDEN / passed / 1e9


def _shortest(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of a call among those made in so many seconds: what else runs disturbs that one least."""
    call()  # makes what the library keeps for this shape
    end = time.perf_counter() + seconds
    times: list[float] = []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
