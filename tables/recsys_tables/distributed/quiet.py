"""Silence for warnings of TorchRec's planner, sharder and tracing that do not concern a caller of this package."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Torch logs a deprecation of its own tracing at the first sharded lookup.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
# TorchRec calls collectives by their old names, at every step of every rank.
warnings.filterwarnings("ignore", r".*Please use `torch\.distributed\..*_single`", FutureWarning)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence these warnings for as long as the block runs."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
