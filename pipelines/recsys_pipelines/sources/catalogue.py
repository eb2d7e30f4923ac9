"""The sources by name: of which data set each is, and which files `data.path` names."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A source: the data set that it reads, and what `data.path` then names."""

    data_set: str
    path: str


TEXT = "plain, .gz or .zst"
CATALOGUE: dict[str, Entry] = {
    "table": Entry(
        "any log with a header", "a Parquet, Arrow or CSV file, or a folder of files of one of these kinds"
    ),
    "generated": Entry("a log drawn from known click probabilities", "none: it is made as `generator` says"),
    "criteo": Entry(
        "Criteo, Kaggle 2014", f"train.txt or test.txt, {TEXT}; Parquet and Arrow with its columns"
    ),
    "criteo_1tb": Entry("Criteo 1 TB", f"one of day_0 … day_23, {TEXT}, or the folder of them"),
    "criteo_x4": Entry(
        "Criteo_x4 (BARS)", f"train.csv, valid.csv or test.csv, {TEXT}, or the folder of them"
    ),
    "criteo_x1": Entry(
        "Criteo_x1 (BARS)", f"train.csv, valid.csv or test.csv, {TEXT}, or the folder of them"
    ),
    "avazu": Entry("Avazu, Kaggle 2014", f"train.csv or test.csv, {TEXT}"),
    "movielens_1m": Entry("MovieLens-1M", "the folder of ratings.dat, users.dat and movies.dat"),
    "movielens_csv": Entry("MovieLens 25M, 32M and latest", "the folder of ratings.csv and movies.csv"),
    "amazon": Entry("Amazon reviews 2014, 2018 and 2023", f"one file of JSON lines, {TEXT}"),
    "taobao_ad": Entry(
        "Taobao's ad log",
        "the folder of raw_sample.csv, user_profile.csv and ad_feature.csv, or one file of it",
    ),
    "taobao_behavior": Entry("Taobao's UserBehavior", f"UserBehavior.csv, {TEXT}"),
    "kdd12": Entry("KDD Cup 2012, track 2", f"training.txt or test.txt, {TEXT}"),
    "kuairec": Entry(
        "KuaiRec",
        "big_matrix.csv or small_matrix.csv; beside it user_features.csv, item_categories.csv, social_network.csv",
    ),
    "open_bandit": Entry("Open Bandit (ZOZO)", "<campaign>.csv, beside it item_context.csv"),
    "ngcf": Entry(
        "Gowalla, Yelp2018, Amazon-book as NGCF split them",
        "the folder of train.txt and test.txt, or one of them; positives only",
    ),
    "recbole": Entry(
        "RecBole's atomic files", "the folder of <name>.inter, and perhaps <name>.user and <name>.item"
    ),
}
