"""A field: a feature's scheme, and how its ids are checked, weighted and pooled."""

from dataclasses import dataclass
from typing import Literal

from recsys_tables.out_of_range import Policy, check_policy
from recsys_tables.scheme import Scheme


@dataclass(frozen=True)
class Field:
    """A feature of the model: its scheme, and how a bag of its ids becomes vectors.

    Args:
        pooling: `sum` or `mean` of a bag, or `none`: a sequence, one vector per id.
        multivalued: False promises exactly one id per sample, which is checked.
        weighted: an id's vector is multiplied by its weight in the batch; a mean divides by the bag's
            total weight. Weights are constants: no gradient flows into them.
        out_of_range: what an id outside the scheme's space does (`recsys_tables.out_of_range`);
            `oov` reads `oov_id` in its place.
    """

    scheme: Scheme
    pooling: Literal["sum", "mean", "none"] = "sum"
    multivalued: bool = False
    weighted: bool = False
    out_of_range: Policy = "error"
    oov_id: int | None = None

    def __post_init__(self) -> None:
        check_policy(self.scheme, self.out_of_range, self.oov_id)
        if self.pooling == "none" and not self.multivalued:
            raise ValueError(
                f"feature {self.feature!r}: pooling 'none' makes a sequence: declare it multivalued"
            )

    @property
    def feature(self) -> str:
        """Return the feature's name."""
        return self.scheme.feature

    @property
    def needs_bag_per_id(self) -> bool:
        """Return whether ids are to be looked up unpooled. Bags of exactly one id already are."""
        return self.multivalued and (self.pooling == "none" or not self.scheme.linear)

    @property
    def weighs_rows(self) -> bool:
        """Return whether a batch's weights go into the lookup. Elsewhere they multiply what `combine` made of one id."""
        return self.weighted and self.multivalued and not self.needs_bag_per_id

    @property
    def averages(self) -> bool:
        """Return whether a bag's sum is to be divided. The mean of one id without a weight is itself."""
        return self.pooling == "mean" and (self.multivalued or self.weighted)
