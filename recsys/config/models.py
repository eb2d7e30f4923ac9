"""The section `model` declares a network: there is one class for each model of `recsys.models`."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from recsys_pipelines.config import CategoricalConfig, FeatureConfig, SequenceConfig, Strict

Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


class _Network(Strict):
    hidden: tuple[Width, ...] = Field((400, 400), min_length=1)  # widths of the layers of the MLP
    dropout: float = Field(0.0, ge=0, lt=1)  # share of numbers that training drops


class LRConfig(Strict):
    """Logistic regression, in which an id's weight is the mean of its vector."""

    name: Literal["lr"]


class FMConfig(Strict):
    """A factorisation machine, which sums all pairs of fields and a linear term."""

    name: Literal["fm"]


class DeepFMConfig(_Network):
    """DeepFM, which adds an MLP to a factorisation machine."""

    name: Literal["deepfm"]


class DCNv2Config(_Network):
    """DCN-V2, which has a cross network of full rank beside an MLP."""

    name: Literal["dcn_v2"]
    cross_layers: int = Field(3, ge=1, le=100)  # of the cross network


class DLRMConfig(_Network):
    """DLRM, which reads pairwise dot products; `hidden` is the top MLP, `bottom` the one over dense features."""

    name: Literal["dlrm"]
    bottom: tuple[Width, ...] = (64,)


class FNNConfig(_Network):
    """FNN, which is an MLP over the vectors."""

    name: Literal["fnn"]


class IPNNConfig(_Network):
    """IPNN, which is an MLP over the vectors and the inner products of their pairs."""

    name: Literal["ipnn"]


class XDeepFMConfig(_Network):
    """xDeepFM, which adds up a compressed interaction network, an MLP and a linear term.

    `cin` is the number of maps of each layer of the interaction network.
    """

    name: Literal["xdeepfm"]
    cin: tuple[Width, ...] = Field((100, 100), min_length=1)


class AutoIntConfig(Strict):
    """AutoInt, whose fields attend to each other; with `hidden` it has an MLP beside them (AutoInt+).

    `dropout` is of attention and MLP.
    """

    name: Literal["autoint"]
    layers: int = Field(3, ge=1, le=100)  # of attention
    heads: int = Field(2, ge=1, le=1024)  # of each layer
    head_dim: int = Field(32, ge=1, le=65_536)  # numbers of a head
    residual: bool = True  # whether a layer's input is added to its output
    hidden: tuple[Width, ...] = ()
    dropout: float = Field(0.0, ge=0, lt=1)  # share of numbers that training drops


class FinalMLPConfig(_Network):
    """FinalMLP, whose two MLPs, `hidden` and `second_hidden`, stand behind gates.

    A gate reads the named features, or a trained constant where none is named.
    """

    name: Literal["final_mlp"]
    second_hidden: tuple[Width, ...] = Field((400, 400), min_length=1)  # of the second MLP
    first_gate: tuple[str, ...] = ()
    second_gate: tuple[str, ...] = ()
    gate_hidden: tuple[Width, ...] = (64,)  # widths of the gates' layers
    heads: int = Field(1, ge=1)  # of the bilinear fusion

    @model_validator(mode="after")
    def _equal_parts(self) -> "FinalMLPConfig":
        for key in ("hidden", "second_hidden"):
            if (last := getattr(self, key)[-1]) % self.heads:
                raise ValueError(
                    f"the last width {last} of `{key}` cannot be cut into {self.heads} equal `heads`"
                )
        return self


class InterestConfig(Strict):
    """A history that is attended to by its target: a sequence declared `like: <target>`, and the target."""

    target: str  # a feature that holds one id
    history: str  # a `sequence` that is `like` it


class DINConfig(_Network):
    """DIN, which attends to histories, whose tables are their targets', and has an MLP with Dice."""

    name: Literal["din"]
    interests: tuple[InterestConfig, ...] = Field(min_length=1)
    hidden: tuple[Width, ...] = Field((200, 80), min_length=1)
    attention_hidden: tuple[Width, ...] = Field((80, 40), min_length=1)
    # what `training.table_decay` shrinks: the vectors of every impression, or each id once a batch, over its
    # count in training (mini-batch aware), where bags that are pooled stay as they are
    decay_by: Literal["impression", "id"] = "impression"

    @model_validator(mode="after")
    def _histories_once(self) -> "DINConfig":
        names = [interest.history for interest in self.interests]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"histories named twice: {', '.join(twice)}")
        return self

    def check(self, features: Sequence[FeatureConfig]) -> None:
        """Raise ValueError unless every target is a single-valued feature of ids and every history a sequence like it."""
        declared = {name: feature for feature in features if feature.categorical for name in feature.names}
        for interest in self.interests:
            target, history = declared.get(interest.target), declared.get(interest.history)
            for name, feature in ((interest.target, target), (interest.history, history)):
                if feature is None:
                    near = difflib.get_close_matches(name, declared, 1, 0.4)
                    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(declared)}"
                    raise ValueError(f"model.interests: {name!r} is no declared feature of ids; {hint}")
            if not isinstance(target, CategoricalConfig) or target.multivalued:
                raise ValueError(
                    f"model.interests: the target {interest.target!r} must hold one id a row: "
                    "name a `kind: categorical` feature that is not multivalued"
                )
            if not isinstance(history, SequenceConfig) or history.like != interest.target:
                raise ValueError(
                    f"model.interests: the history {interest.history!r} must be a `kind: sequence` feature with "
                    f"`like: {interest.target}`, for it reads the rows of its target"
                )


ModelConfig = Annotated[
    LRConfig
    | FMConfig
    | FNNConfig
    | IPNNConfig
    | DeepFMConfig
    | DCNv2Config
    | DLRMConfig
    | XDeepFMConfig
    | AutoIntConfig
    | FinalMLPConfig
    | DINConfig,
    Field(discriminator="name"),
]


def targets_of(model: ModelConfig) -> dict[str, str]:
    """Return the target of every history that `model` reads unpooled, by the history's name, in the model's order."""
    return {i.history: i.target for i in model.interests} if isinstance(model, DINConfig) else {}
