"""Readers of data sets: each streams raw columns and quarantines what its format cannot parse."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from recsys_pipelines.sources.avazu import Avazu
from recsys_pipelines.sources.base import Chunk, Source, SourceError
from recsys_pipelines.sources.criteo import Criteo
from recsys_pipelines.sources.movielens_1m import MovieLens1M
from recsys_pipelines.sources.recbole import RecBole
from recsys_pipelines.sources.table import Table

if TYPE_CHECKING:  # config imports sources.generated
    from recsys_pipelines.config import DataConfig

__all__ = ["SOURCES", "Chunk", "Source", "SourceError", "open_source"]

SOURCES: dict[str, Callable[..., Source]] = {
    "criteo": Criteo,
    "avazu": Avazu,
    "movielens_1m": MovieLens1M,
    "recbole": RecBole,
    "table": Table,
}


def open_source(data: "DataConfig", *, labelled: bool = True) -> Source:
    """The source `data` names. When not `labelled`, formats with a fixed label column may lack it.

    Raises SourceError when the path is missing or is not such a source. A generated log is written by
    `sources.generated.generate` first, and then read as `table`.
    """
    if data.source not in SOURCES or data.path is None:
        raise SourceError(
            f"source {data.source!r} with path {data.path}: only {', '.join(SOURCES)} read a path"
        )
    return SOURCES[data.source](data.path, labelled=labelled)
