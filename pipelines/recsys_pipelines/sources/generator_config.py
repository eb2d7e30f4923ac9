"""The declaration of a generated log (`generated`)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

RANK_LIMIT = 8  # dimension of the space all true latent vectors live in
RESERVED = ("label", "time", "history", "true_probability")

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=100)]


class FieldConfig(BaseModel):
    """One categorical field. Index 0 is the most popular id when the log starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    num_ids: int = Field(ge=1, le=10**8)
    zipf: Annotated[float, Field(ge=0, le=4)] = 1.0  # P(r-th most popular) is proportional to r ** -zipf
    signal: Weight = 1.0  # scales main effects and latent vectors; 0 = a useless field
    rank: Annotated[int, Field(ge=0, le=RANK_LIMIT)] = 4  # of the true latent vectors; 0 = main effects only
    useless_share: Share = 0.0  # share of ids without any effect, popular or not
    multivalued: Annotated[float, Field(ge=1, le=100)] = 1.0  # mean list length (Poisson: some are empty)
    drift: Share = 0.0  # share of draws that follow a second, unrelated order of popularity at the end
    new_ids: Share = 0.0  # share of ids that arrive during the log, at uniform times


DEFAULT_FIELDS = (
    FieldConfig(name="user_id", num_ids=100_000, zipf=0.6, signal=1.2, new_ids=0.2),
    FieldConfig(name="item_id", num_ids=1_000_000, zipf=1.05, signal=1.2, rank=8, drift=0.3, new_ids=0.2),
    FieldConfig(name="category", num_ids=300),
    FieldConfig(name="advertiser", num_ids=20_000, zipf=1.1, drift=0.2, useless_share=0.3),
    FieldConfig(name="site", num_ids=5_000, zipf=1.1, useless_share=0.5),
    FieldConfig(name="device", num_ids=1_000, zipf=1.2, rank=2),
    FieldConfig(name="country", num_ids=100, zipf=1.2, rank=2),
    FieldConfig(name="position", num_ids=10, zipf=0.5, rank=1),
    FieldConfig(name="tags", num_ids=50_000, multivalued=4.0, drift=0.2, new_ids=0.1),
    FieldConfig(name="trace", num_ids=100_000, zipf=0.8, signal=0.0),
)


class GeneratorConfig(BaseModel):
    """A log of `rows` rows; the users are the ids of the field `user_id`.

    Raises:
        ValueError: names clash, `user_id` is missing, or `history` is on without `item_id`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: int = Field(ge=1)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    click_rate: Annotated[float, Field(gt=0, lt=1)] = 0.2  # target mean of the true probability
    days: Annotated[float, Field(gt=0, le=36500)] = 14.0  # time from the first row to the last
    fields: tuple[FieldConfig, ...] = DEFAULT_FIELDS
    main: Weight = 0.35  # deviation of a field's main effect in the logit, at signal 1
    interaction: Weight = 0.22  # about the deviation of one pair's interaction, at signal 1
    history: Annotated[int, Field(ge=0, le=100)] = 10  # last items the user clicked, oldest first; 0 = none
    history_effect: Weight = 0.7  # weight of the item's affinity to them
    numeric: Annotated[int, Field(ge=0, le=1000)] = 4  # log-normal columns numeric_0, numeric_1, ...
    numeric_effect: Weight = 0.2  # weight of ln(value), negative in odd columns
    missing_share: Share = 0.05  # share of nulls among numeric values; a null has no effect

    @model_validator(mode="after")
    def _names(self) -> "GeneratorConfig":
        taken = [*RESERVED, *(f"numeric_{j}" for j in range(self.numeric)), *(f.name for f in self.fields)]
        if len(set(taken)) < len(taken):
            raise ValueError(f"field names must be unique and none of {', '.join(RESERVED)}, numeric_*")
        single = {field.name for field in self.fields if field.multivalued == 1}
        if missing := {"user_id", *(["item_id"] if self.history else [])} - single:
            raise ValueError(f"`fields` needs single-valued {sorted(missing)} (`item_id` only for `history`)")
        return self
