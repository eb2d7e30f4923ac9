"""Taobao's ad log (Ali_Display_Ad_Click): raw_sample.csv with user_profile.csv and ad_feature.csv.

raw_sample.csv     user,time_stamp,adgroup_id,pid,nonclk,clk: 26,557,961 rows of eight days of May 2017, Unix
                   seconds; `clk` is the label and `nonclk` its opposite.
user_profile.csv   userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,
                   occupation,new_user_class_level (with a space after it); not every user has a line.
ad_feature.csv     adgroup_id,cate_id,campaign_id,customer,brand,price; a missing brand is the text NULL.
behavior_log.csv   user,time_stamp,btag,cate,brand: 723 million actions of the 22 days, btag pv|cart|fav|buy.

All are comma with a header. A folder gives the first three joined, a file its own columns only.
"""

import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.sources.base import existing
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import COMMA
from recsys_pipelines.sources.join import Joined
from recsys_pipelines.sources.location import Place

SAMPLE = ("user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk")
USER = (
    *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level"),
    *("occupation", "new_user_class_level"),
)
AD = ("cate_id", "campaign_id", "customer", "brand", "price")


class TaobaoAd(Joined):
    """The impressions of a folder, `path`, with users and ads; or one file of it with its own columns only."""

    columns: tuple[str, ...] = (*SAMPLE, *USER, *AD)

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        path = existing(path)
        if not path.is_dir():
            super().__init__(_open(path))
            return
        sample = DelimitedFile(path / "raw_sample.csv", COMMA)
        sample.require(SAMPLE[:4] if not labelled else SAMPLE)
        super().__init__(
            sample,
            [("user", _open(path / "user_profile.csv")), ("adgroup_id", _open(path / "ad_feature.csv"))],
        )


def _open(path: Place) -> Derived:
    file = DelimitedFile(path, COMMA, rename=lambda name: "user" if name == "userid" else name)
    return Derived(file, {name: Derivation(name, _null) for name in file.schema.names if name == "brand"})


def _null(brand: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(brand, "NULL"), pa.scalar(None, pa.string()), brand)
