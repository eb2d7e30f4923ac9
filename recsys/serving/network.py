"""The network above the tables as an ONNX program, which onnxruntime runs where there is no torch.

Inputs are `dense` float32 [B, n] and `vectors` float32 [B, F, D]; for each history i `history_<i>` float32 [B, L, D],
padded to the longest, and `lengths_<i>` int64 [B]. The output is `logit` float32 [B].
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from typing_extensions import override

from recsys.models import DIN

HISTORY, LENGTHS = "history_{}", "lengths_{}"
_ROWS = 2  # of the example that is traced; torch would take 1 for a constant


class Padded(nn.Module):
    """A DIN whose histories are padded."""

    def __init__(self, din: DIN) -> None:
        super().__init__()
        self.din = din

    @override
    def forward(self, dense: Tensor, vectors: Tensor, *parts: Tensor) -> Tensor:
        """Map what `DIN.padded` takes, values and lengths of each history in turn, to logits [B]."""
        return self.din.padded(dense, vectors, *zip(parts[::2], parts[1::2], strict=True))


def write_network(
    network: nn.Module, num_dense: int, num_fields: int, embedding_dim: int, file: Path
) -> None:
    """Write a trained network as an ONNX program, in float32 even if it was trained in bfloat16."""
    names = ["dense", "vectors"]
    example = [torch.zeros(_ROWS, num_dense), torch.zeros(_ROWS, num_fields, embedding_dim)]
    shapes: list[dict[int, Any]] = [{0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}]
    if isinstance(network, DIN):
        for number in range(len(network.interests)):
            names += [HISTORY.format(number), LENGTHS.format(number)]
            example += [torch.zeros(_ROWS, 3, embedding_dim), torch.ones(_ROWS, dtype=torch.int64)]
            shapes += [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC}]
        network = Padded(network)
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            tuple(example),
            dynamo=True,
            dynamic_shapes=tuple(shapes) if len(shapes) == 2 else (*shapes[:2], tuple(shapes[2:])),
            input_names=names,
            output_names=["logit"],
            verbose=False,
        )
    assert program is not None
    program.save(file)


def can_write_network() -> bool:
    """Tell whether the packages that write a network are installed, which are the extra `export`."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says of packages that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
