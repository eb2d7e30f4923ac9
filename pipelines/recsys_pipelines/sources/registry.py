"""The sources that a configuration can name, and which files each reads beside the one it is given."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from recsys_pipelines.sources import kuairec, open_bandit
from recsys_pipelines.sources.amazon import Amazon
from recsys_pipelines.sources.avazu import Avazu
from recsys_pipelines.sources.base import Source, SourceError
from recsys_pipelines.sources.criteo import Criteo, CriteoCSV
from recsys_pipelines.sources.kdd12 import Kdd12
from recsys_pipelines.sources.kuairec import KuaiRec
from recsys_pipelines.sources.movielens_1m import MovieLens1M
from recsys_pipelines.sources.movielens_csv import MovieLensCSV
from recsys_pipelines.sources.ngcf import Ngcf
from recsys_pipelines.sources.open_bandit import OpenBandit
from recsys_pipelines.sources.recbole import RecBole
from recsys_pipelines.sources.table import Table
from recsys_pipelines.sources.taobao_ad import TaobaoAd
from recsys_pipelines.sources.taobao_behavior import TaobaoBehavior

if TYPE_CHECKING:  # config imports sources.generated
    from recsys_pipelines.config import DataConfig

SOURCES: dict[str, Callable[..., Source]] = {
    "criteo": Criteo,
    "criteo_1tb": Criteo,
    "criteo_x4": CriteoCSV,
    "criteo_x1": CriteoCSV,
    "avazu": Avazu,
    "taobao_ad": TaobaoAd,
    "taobao_behavior": TaobaoBehavior,
    "kdd12": Kdd12,
    "open_bandit": OpenBandit,
    "movielens_1m": MovieLens1M,
    "movielens_csv": MovieLensCSV,
    "amazon": Amazon,
    "kuairec": KuaiRec,
    "ngcf": Ngcf,
    "recbole": RecBole,
    "table": Table,
}

# Names of the files that a source reads beside the file it is given.
BESIDE: dict[str, Iterable[str]] = {"kuairec": kuairec.BESIDE, "open_bandit": open_bandit.BESIDE}


def open_source(data: "DataConfig", *, labelled: bool = True) -> Source:
    """Open the source that `data` names. When not `labelled`, formats with a fixed label column may lack it.

    Raises SourceError when the path is missing or is not such a source. A generated log is written by
    `sources.generated.generate` first, and then read as `table`.
    """
    if data.source not in SOURCES or data.path is None:
        raise SourceError(
            f"source {data.source!r} with path {data.path}: only {', '.join(SOURCES)} read a path"
        )
    return SOURCES[data.source](data.path, labelled=labelled)
