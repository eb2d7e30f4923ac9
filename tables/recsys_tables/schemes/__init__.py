"""The schemes, one file each."""

from recsys_tables.schemes.auto_dim import AutoDim
from recsys_tables.schemes.auto_srh import AutoSrh
from recsys_tables.schemes.chinese_remainder import ChineseRemainder, coprime_moduli
from recsys_tables.schemes.compact import Compact, compact_from
from recsys_tables.schemes.deep_hash import DeepHash
from recsys_tables.schemes.deep_light import DeepLight
from recsys_tables.schemes.frequency_split import FrequencySplit
from recsys_tables.schemes.full import Full
from recsys_tables.schemes.hash_embedding import HashEmbedding
from recsys_tables.schemes.hashed import Hash
from recsys_tables.schemes.mde import Mde
from recsys_tables.schemes.mem_com import MEmCom
from recsys_tables.schemes.mixed_dimension import MixedDimension, popularity_dims
from recsys_tables.schemes.mixed_radix import MixedRadix
from recsys_tables.schemes.multi_hash import MultiHash
from recsys_tables.schemes.opt_embed import OptEmbed
from recsys_tables.schemes.path_based import PathBased
from recsys_tables.schemes.pep import Pep
from recsys_tables.schemes.quotient_remainder import QuotientRemainder
from recsys_tables.schemes.robe import Robe
from recsys_tables.schemes.shared import Shared
from recsys_tables.schemes.tensor_train import TensorTrain
from recsys_tables.schemes.unified import Unified

__all__ = [
    "AutoDim",
    "AutoSrh",
    "ChineseRemainder",
    "Compact",
    "DeepHash",
    "DeepLight",
    "FrequencySplit",
    "Full",
    "Hash",
    "HashEmbedding",
    "MEmCom",
    "Mde",
    "MixedDimension",
    "MixedRadix",
    "MultiHash",
    "OptEmbed",
    "PathBased",
    "Pep",
    "QuotientRemainder",
    "Robe",
    "Shared",
    "TensorTrain",
    "Unified",
    "compact_from",
    "coprime_moduli",
    "popularity_dims",
]
