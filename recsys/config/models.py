"""The section `model` declares a network: there is one class for each model of `recsys.models`.

A class knows what its network holds (`size`), and of which fields it cannot be made (`check_fields`), so that both are
known without torch.
"""

import difflib
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from recsys.config.network_size import NetworkSize, linear, mlp, pair_bytes, pairs
from recsys_pipelines.config import CategoricalConfig, FeatureConfig, SequenceConfig, Strict

Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


class _Model(Strict):
    def check_fields(self, num_dense: int, fields: Sequence[str]) -> None:
        """Raise ValueError where no such network can be made of `num_dense` numbers and the vectors of `fields`."""

    @abstractmethod
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        """Count what the network holds, of `num_dense` numbers and `fields` vectors of a width."""


class _Network(_Model):
    hidden: tuple[Width, ...] = Field((400, 400), min_length=1)  # widths of the layers of the MLP
    dropout: float = Field(0.0, ge=0, lt=1)  # share of numbers that training drops


class LRConfig(_Model):
    """Logistic regression, in which an id's weight is the mean of its vector."""

    name: Literal["lr"]

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        return NetworkSize(num_dense + 1)


class FMConfig(_Model):
    """A factorisation machine, which sums all pairs of fields and a linear term."""

    name: Literal["fm"]

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        return NetworkSize(linear(num_dense + fields * embedding_dim, 1))


class DeepFMConfig(_Network):
    """DeepFM, which adds an MLP to a factorisation machine."""

    name: Literal["deepfm"]

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim
        return NetworkSize(linear(inputs, 1) + mlp(inputs, self.hidden) + self.hidden[-1])


class DCNv2Config(_Network):
    """DCN-V2, which has a cross network of full rank beside an MLP."""

    name: Literal["dcn_v2"]
    cross_layers: int = Field(3, ge=1, le=100)  # of the cross network

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim
        crosses = self.cross_layers * linear(inputs, inputs)
        return NetworkSize(crosses + mlp(inputs, self.hidden) + linear(inputs + self.hidden[-1], 1))


class DLRMConfig(_Network):
    """DLRM, which reads pairwise dot products; `hidden` is the top MLP, `bottom` the one over dense features."""

    name: Literal["dlrm"]
    bottom: tuple[Width, ...] = (64,)

    @override
    def check_fields(self, num_dense: int, fields: Sequence[str]) -> None:
        if len(fields) + (num_dense > 0) < 2:
            raise ValueError(
                "dlrm has no pair to multiply: it needs a second categorical or a numeric feature"
            )

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        vectors, bottom = fields, 0
        if num_dense:
            vectors, bottom = fields + 1, mlp(num_dense, [*self.bottom, embedding_dim])
        top = mlp(pairs(vectors) + embedding_dim * (num_dense > 0), self.hidden)
        return NetworkSize(bottom + top + linear(self.hidden[-1], 1), pair_bytes(vectors))


class FNNConfig(_Network):
    """FNN, which is an MLP over the vectors."""

    name: Literal["fnn"]

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim
        return NetworkSize(mlp(inputs, self.hidden) + linear(self.hidden[-1], 1))


class IPNNConfig(_Network):
    """IPNN, which is an MLP over the vectors and the inner products of their pairs."""

    name: Literal["ipnn"]

    @override
    def check_fields(self, num_dense: int, fields: Sequence[str]) -> None:
        if len(fields) < 2:
            raise ValueError("ipnn has no pair to multiply: it needs a second categorical feature")

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim + pairs(fields)
        return NetworkSize(mlp(inputs, self.hidden) + linear(self.hidden[-1], 1), pair_bytes(fields))


class XDeepFMConfig(_Network):
    """xDeepFM, which adds up a compressed interaction network, an MLP and a linear term.

    `cin` is the number of maps of each layer of the interaction network.
    """

    name: Literal["xdeepfm"]
    cin: tuple[Width, ...] = Field((100, 100), min_length=1)

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim
        # without biases
        maps = sum(before * fields * after for before, after in itertools.pairwise([fields, *self.cin]))
        output = sum(self.cin) + self.hidden[-1]
        return NetworkSize(linear(inputs, 1) + maps + mlp(inputs, self.hidden) + output)


class AutoIntConfig(_Model):
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

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        width, projections = self.heads * self.head_dim, 3 + self.residual
        layers = projections * width * (embedding_dim + (self.layers - 1) * width)
        deep = mlp(num_dense + fields * embedding_dim, self.hidden) if self.hidden else 0
        output = linear((num_dense + fields) * width + sum(self.hidden[-1:]), 1)
        return NetworkSize(num_dense * embedding_dim + layers + deep + output)


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

    @override
    def check_fields(self, num_dense: int, fields: Sequence[str]) -> None:
        _require_among(fields, self.first_gate, "model.first_gate")
        _require_among(fields, self.second_gate, "model.second_gate")

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        inputs = num_dense + fields * embedding_dim
        streams = mlp(inputs, self.hidden) + mlp(inputs, self.second_hidden)
        gates = 0
        for names in (self.first_gate, self.second_gate):
            context = [max(1, len(names)) * embedding_dim, *self.gate_hidden]
            constant = 0 if names else embedding_dim
            gates += constant + mlp(context[0], context[1:]) + linear(context[-1], inputs)
        first, second = self.hidden[-1], self.second_hidden[-1]
        return NetworkSize(streams + gates + linear(first + second, 1) + first * second // self.heads)


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

    @override
    def check_fields(self, num_dense: int, fields: Sequence[str]) -> None:
        _require_among(fields, [interest.target for interest in self.interests], "model.interests.target")

    @override
    def size(self, num_dense: int, fields: int, embedding_dim: int) -> NetworkSize:
        units = len(self.interests)
        inputs = num_dense + (fields + units) * embedding_dim
        unit = mlp(4 * embedding_dim, self.attention_hidden) + linear(self.attention_hidden[-1], 1)
        deep = mlp(inputs, self.hidden) + linear(self.hidden[-1], 1)
        # a trained number, a mean and a variance each
        dice = units * sum(self.attention_hidden) + sum(self.hidden)
        return NetworkSize(units * unit + deep + dice, 2 * 4 * dice)


def _require_among(fields: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise ValueError for a name that is none of the features of ids."""
    for name in names:
        if name not in fields:
            raise ValueError(f"{where}: {name!r} is none of the features of ids: {', '.join(fields)}")


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
