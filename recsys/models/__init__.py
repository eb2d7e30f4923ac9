"""All click models have one interface: (dense [B, n], vectors [B, F, D]) -> logit [B].

A class is built from (config, num_dense, fields, embedding_dim), `fields` the names of the F vectors in their order;
`build` finds it by the config's type. DIN also takes the sequences of its histories.
"""

from collections.abc import Sequence

from torch import nn

from recsys.config import models as model_config
from recsys.models.autoint import AutoInt
from recsys.models.click import ClickModel, InBfloat16
from recsys.models.dcn_v2 import DCNv2
from recsys.models.deepfm import DeepFM
from recsys.models.din import DIN
from recsys.models.dlrm import DLRM
from recsys.models.final_mlp import FinalMLP
from recsys.models.fm import FM
from recsys.models.fnn import FNN
from recsys.models.ipnn import IPNN
from recsys.models.lr import LR
from recsys.models.xdeepfm import XDeepFM

__all__ = [
    "DIN",
    "DLRM",
    "FM",
    "FNN",
    "IPNN",
    "LR",
    "AutoInt",
    "ClickModel",
    "DCNv2",
    "DeepFM",
    "FinalMLP",
    "InBfloat16",
    "XDeepFM",
    "build",
]

_MODELS: dict[type, type[nn.Module]] = {
    model_config.LRConfig: LR,
    model_config.FMConfig: FM,
    model_config.FNNConfig: FNN,
    model_config.IPNNConfig: IPNN,
    model_config.DeepFMConfig: DeepFM,
    model_config.DCNv2Config: DCNv2,
    model_config.DLRMConfig: DLRM,
    model_config.XDeepFMConfig: XDeepFM,
    model_config.AutoIntConfig: AutoInt,
    model_config.FinalMLPConfig: FinalMLP,
    model_config.DINConfig: DIN,
}


def build(
    model: model_config.ModelConfig, num_dense: int, fields: Sequence[str], embedding_dim: int
) -> nn.Module:
    """Return the network that `model` declares, freshly initialised. Raises ValueError for features it cannot use."""
    model.check_fields(num_dense, fields)
    return _MODELS[type(model)](model, num_dense, fields, embedding_dim)
