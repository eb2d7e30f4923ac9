"""What all declarations share: unknown keys are errors, and names that can be used."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def feature_name(name: str) -> str:
    """Return a name that a feature may have. Raises ValueError for one that means something else in prepared rows."""
    if name == "row_id" or name.startswith("@"):
        raise ValueError(
            f"{name!r} is a column of prepared rows (row_id, @label, …); rename the column in the data"
        )
    if not name or "." in name:
        raise ValueError(f"{name!r} cannot name a torch module: no name is empty or holds a '.'")
    if ":" in name:
        raise ValueError(
            f"{name!r} holds a ':', which marks columns that belong to a feature (:missing); rename the column"
        )
    return name


FeatureName = Annotated[str, AfterValidator(feature_name)]


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's generator and TPE's take no more


class Strict(BaseModel):
    """A declaration: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
