"""The tables that a configuration may declare: the union of all schemes' declarations, ways of sharding, and kernels."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from recsys_tables.scheme import Scheme
from recsys_tables.schemes.auto_dim import AutoDimTables
from recsys_tables.schemes.auto_srh import AutoSrhTables
from recsys_tables.schemes.chinese_remainder import ChineseRemainderTables
from recsys_tables.schemes.coded import CodedTables
from recsys_tables.schemes.compact import CompactTables
from recsys_tables.schemes.declared import Declaration
from recsys_tables.schemes.deep_hash import DeepHash
from recsys_tables.schemes.deep_light import DeepLightTables
from recsys_tables.schemes.frequency_split import FrequencySplitTables
from recsys_tables.schemes.full import FullTables
from recsys_tables.schemes.hash_embedding import HashEmbeddingTables
from recsys_tables.schemes.hashed import HashTables
from recsys_tables.schemes.mde import MdeTables
from recsys_tables.schemes.mem_com import MEmComTables
from recsys_tables.schemes.mixed_dimension import MixedDimensionTables
from recsys_tables.schemes.mixed_radix import MixedRadixTables
from recsys_tables.schemes.multi_hash import MultiHashTables
from recsys_tables.schemes.opt_embed import OptEmbedTables
from recsys_tables.schemes.path_based import PathBasedTables
from recsys_tables.schemes.pep import PepTables
from recsys_tables.schemes.quotient_remainder import QuotientRemainderTables
from recsys_tables.schemes.robe import RobeTables
from recsys_tables.schemes.shared import Shared
from recsys_tables.schemes.tensor_train import TensorTrainTables
from recsys_tables.schemes.unified import UnifiedTables

Sharding = Literal["auto", "table_wise", "row_wise", "column_wise"]  # of a table over ranks
TableKernelName = Literal["recsys", "fbgemm"]  # what reads and updates rows on a CPU

TablesConfig = Annotated[
    FullTables
    | CodedTables
    | CompactTables
    | OptEmbedTables
    | PepTables
    | DeepLightTables
    | AutoDimTables
    | AutoSrhTables
    | MdeTables
    | HashTables
    | MultiHashTables
    | QuotientRemainderTables
    | UnifiedTables
    | FrequencySplitTables
    | HashEmbeddingTables
    | MixedRadixTables
    | ChineseRemainderTables
    | PathBasedTables
    | MixedDimensionTables
    | RobeTables
    | TensorTrainTables
    | MEmComTables,
    Field(discriminator="scheme"),
]
DECLARATIONS: tuple[type[Declaration], ...] = get_args(get_args(TablesConfig)[0])


def scheme_classes() -> dict[str, type[Scheme]]:
    """Return the class of every scheme by its name, which checkpoints and artefacts know it by.

    No configuration declares `Shared`, which a plan makes, and `DeepHash`, which has no tables.
    """
    classes = (*(declaration.scheme_class for declaration in DECLARATIONS), DeepHash, Shared)
    return {scheme.__name__: scheme for scheme in classes}
