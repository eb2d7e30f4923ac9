"""Logs of schemas that were made up, each small enough to be trained on in a moment."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROWS = 900
START = datetime(2024, 5, 1)
WORDS = ["alpha", "beta", "gamma", "delta", "eps", "zeta", "eta", "theta", "iota", "kappa"]


def _columns() -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    user, item = random.integers(0, 60, ROWS), random.integers(0, 40, ROWS)
    label = (random.random(ROWS) < 1 / (1 + np.exp(-2 * np.sin(user) - np.cos(item)))).astype(int)
    return random, user, item, label


def shop(folder: Path) -> Path:
    """A CSV file with odd names, lists in text, and times of a pattern."""
    random, user, item, label = _columns()
    rows = {
        "": np.arange(ROWS),
        "user id": [f"u{k}" for k in user],
        'item "sku": {#}': [f"00{k}" for k in item],
        "price, EUR": np.round(random.lognormal(2, 2, ROWS), 2),
        "tags": ["|".join(random.choice(list("abcdef"), random.integers(1, 4), False)) for _ in user],
        "ordered at": [(START + timedelta(hours=k)).strftime("%d/%m/%Y %H:%M") for k in range(ROWS)],
        "purchased": label,
    }
    pl.DataFrame(rows).write_csv(folder / "shop.csv")
    return folder / "shop.csv"


def news(folder: Path) -> Path:
    """A Parquet file with titles, lists, vectors, a struct, and a label of true and false."""
    random, user, item, label = _columns()
    titles = [" ".join(random.choice(WORDS, 4)) for _ in range(40)]
    rows = {
        "event_id": [f"e{k:06d}" for k in range(ROWS)],
        "visitor": user,
        "articleId": item,
        "headline": [titles[k] for k in item],
        "topics": [[int(a) for a in random.integers(0, 9, random.integers(0, 3))] for _ in user],
        "embedding": [[0.1, 0.2]] * ROWS,
        "shown": [START + timedelta(minutes=7 * k) for k in range(ROWS)],
        "is_mobile": random.random(ROWS) < 0.5,
        "clicked": label.astype(bool),
        "context": [{"a": 1}] * ROWS,
    }
    pl.DataFrame(rows).write_parquet(folder / "news.parquet")
    return folder / "news.parquet"


def stars(folder: Path) -> Path:
    """A TSV file of ratings with seconds since 1970."""
    random, user, item, label = _columns()
    rating = np.clip(np.round(2 * label + random.normal(2.5, 1, ROWS)), 1, 5).astype(int)
    seconds = 1_500_000_000 + 1000 * np.arange(ROWS)
    rows = {"userId": user, "movieId": item, "stars": rating, "timestamp": seconds}
    pl.DataFrame(rows).write_csv(folder / "stars.tsv", separator="\t")
    return folder / "stars.tsv"


def anonymous(folder: Path) -> Path:
    """A Parquet file whose names say nothing but for the target, which is -1 or 1."""
    random, user, item, label = _columns()
    rows = {
        "target": 2 * label - 1,
        "x0": random.normal(size=ROWS),
        "x1": user * 7919 * 10**6,
        "x2": item + 1000,
        "x3": random.integers(0, 3, ROWS),
        "x4": [None if k % 5 == 0 else float(k) for k in random.integers(0, 10**6, ROWS)],
        "x5": (random.lognormal(3, 2, ROWS)).astype(int),
    }
    pl.DataFrame(rows).write_parquet(folder / "anonymous.parquet")
    return folder / "anonymous.parquet"


def days(folder: Path) -> Path:
    """A folder of one file a day, with two outcomes."""
    random, user, item, label = _columns()
    for day in range(5):
        part = slice(day * ROWS // 5, (day + 1) * ROWS // 5)
        below = folder / "days" / f"dt=2024-05-0{day + 1}"
        below.mkdir(parents=True)
        bought = label[part] * (random.random(ROWS // 5) < 0.5)
        rows = {"member_id": user[part], "ad": item[part], "click": label[part], "conversion": bought}
        pl.DataFrame(rows).write_parquet(below / "part.parquet")
    return folder / "days"


MADE_UP = {"shop": shop, "news": news, "stars": stars, "anonymous": anonymous, "days": days}
FLAGS = {"days": ("--label", "click")}  # of what is ambiguous


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=MADE_UP)
def made_up(request: pytest.FixtureRequest, folder: Path) -> list[str]:
    """The arguments that `recsys init` takes for one of the logs, in the working directory."""
    name = request.param
    path = MADE_UP[name](folder)
    return [path.name, *FLAGS.get(name, ())]
