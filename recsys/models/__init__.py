"""Click models behind one interface: (dense [B, n], vectors [B, F, D]) -> logit [B].

A class is built from (config, num_dense, num_fields, embedding_dim); `build` finds it by the config's type.
"""

from torch import nn

from recsys import config
from recsys.models.click import ClickModel
from recsys.models.dcn_v2 import DCNv2
from recsys.models.deepfm import DeepFM
from recsys.models.dlrm import DLRM
from recsys.models.fm import FM
from recsys.models.lr import LR

__all__ = ["DLRM", "FM", "LR", "ClickModel", "DCNv2", "DeepFM", "build"]

_MODELS: dict[type, type[nn.Module]] = {
    config.LRConfig: LR,
    config.FMConfig: FM,
    config.DeepFMConfig: DeepFM,
    config.DCNv2Config: DCNv2,
    config.DLRMConfig: DLRM,
}


def build(model: config.ModelConfig, num_dense: int, num_fields: int, embedding_dim: int) -> nn.Module:
    """Return the network that `model` declares, freshly initialised."""
    return _MODELS[type(model)](model, num_dense, num_fields, embedding_dim)
