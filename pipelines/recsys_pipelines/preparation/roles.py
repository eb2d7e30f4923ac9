"""The columns of an experiment by the part they play: features, label, weight, user, time, truth."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID, mix64
from recsys_pipelines.config import DataConfig, FeatureConfig, TimeConfig
from recsys_pipelines.features import specs_of
from recsys_pipelines.features.convert import ColumnSpec, Kind, Spec
from recsys_pipelines.features.times import Time


def column_specs(data: DataConfig, features: Sequence[FeatureConfig], *, labelled: bool) -> dict[str, Spec]:
    """Return the typed columns an experiment reads: each feature's, and @label, @weight, @user, @time, @truth.

    The marks keep a feature called `user` or `time` apart from the column that plays that part. Raises ValueError
    for a feature declared twice.
    """
    specs = specs_of(features)
    if data.user is not None:
        specs["@user"] = ColumnSpec(data.user, "id")
    if labelled:
        specs["@label"] = ColumnSpec(data.label.column, "label", threshold=data.label.threshold)
        roles: tuple[tuple[str, str | None, Kind], ...] = (
            ("@weight", data.weight, "weight"),
            ("@truth", data.truth, "number"),
        )
        for role, column, kind in roles:
            if column is not None:
                specs[role] = ColumnSpec(column, kind)
        if isinstance(data.time, TimeConfig):
            specs["@time"] = Time(data.time.column, data.time.format)
        elif data.time is not None:
            specs["@time"] = Time(data.time)
    return specs


def with_lone_users(table: pa.Table) -> pa.Table:
    """Give each row without a user one of its own: rows of nobody in particular are not rows of one user."""
    if "@user" not in table.column_names:
        return table
    users = table["@user"].to_numpy()
    lone = np.where(users == MISSING_ID, mix64(table["row_id"].to_numpy() ^ MISSING_ID), users)
    return table.set_column(table.column_names.index("@user"), "@user", pa.array(lone))
