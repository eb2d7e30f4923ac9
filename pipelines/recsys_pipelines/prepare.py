"""Preparation: source -> typed rows -> split, fitted features -> Arrow shards with a manifest.

    <root>/<name>-<key>/
        manifest.json                        written last: a folder without one is unfinished
        staged/                              typed rows of all splits, while unfinished
        features/                            fitted features
        train/ validation/ test/ part-*.arrow
        quarantine/quarantine.csv            rows that could not be read, with file, row, field, value, reason

`<key>` is a digest of everything the result depends on, so preparing twice does nothing the second time.
Files appear when whole, and what follows from others after them: staged rows, features, shards, manifest.
A run that was killed goes on from the last of these that is complete.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import HASH_VERSION, MISSING_ID, mix64
from recsys_pipelines.config import CategoricalConfig, DataConfig, FeatureConfig, SplitConfig
from recsys_pipelines.convert import ColumnSpec, Kind, text_ids, typed
from recsys_pipelines.features import FeatureFitter, Features
from recsys_pipelines.ordered import ordered
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.shards import locked, read_shard, uniform, write_json, write_shard
from recsys_pipelines.sources import BESIDE, Chunk, open_source
from recsys_pipelines.sources.generated import generate
from recsys_pipelines.sources.location import file_prints

FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")

Progress = Callable[[str, int], None]  # (stage, rows finished)


class ManifestError(ValueError):
    """A prepared folder is unfinished, damaged, or of another version."""


@dataclass(frozen=True)
class Prepared:
    """A finished folder of prepared data."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Prepared":
        """Read and check a manifest. Raises ManifestError naming the folder and what to do."""
        file = path / "manifest.json"
        if not file.exists():
            raise ManifestError(f"{path}: no manifest.json, so this is not a finished prepared folder")
        try:
            manifest = json.loads(file.read_text())
            versions = (manifest["format_version"], manifest["hash_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{file}: damaged; delete {path} and prepare again") from error
        if versions != (FORMAT_VERSION, HASH_VERSION):
            raise ManifestError(
                f"{path}: prepared with format and hash versions {versions}, this is "
                f"{(FORMAT_VERSION, HASH_VERSION)}; delete the folder and prepare again"
            )
        return cls(path, manifest)

    def verify(self) -> None:
        """Compare shards and features with their checksums. Raises ManifestError naming the damaged file."""
        shards = {name: shard["blake2b"] for name, shard in self.manifest["shards"].items()}
        for name, digest in {**shards, **self.manifest["feature_files"]}.items():
            file = self.path / name
            if not file.exists() or _digest(file) != digest:
                raise ManifestError(f"{file}: missing or damaged; delete {self.path} and prepare again")


def prepare(
    data: DataConfig, features: Sequence[FeatureConfig], root: Path, progress: Progress | None = None
) -> Prepared:
    """Prepare `data` under `root`, or return what is already there.

    Rows in + rows added (by sources that make two rows of one) = rows out + rows quarantined. Raises
    SourceError for an unreadable file and TooManyBadRows when the share of quarantined rows passes
    `data.quarantine_limit`.
    """
    report = progress or (lambda stage, rows: None)
    specs = column_specs(data, features, labelled=True)
    root.mkdir(parents=True, exist_ok=True)
    readable = _written(data, root, report)
    name = (readable.path or Path("data")).stem
    out = root / f"{name}-{_key(readable, features)}"
    if not (out / "manifest.json").exists() or (out / "staged").exists():
        out.mkdir(exist_ok=True)
        with locked(out / ".lock"):
            if not (out / "manifest.json").exists():
                staged = _stage(readable, specs, out, report)
                write_json(_finish(data, features, staged, out, report), out / "manifest.json")
            shutil.rmtree(out / "staged", ignore_errors=True)
    return Prepared.open(out)


def column_specs(
    data: DataConfig, features: Sequence[FeatureConfig], *, labelled: bool
) -> dict[str, ColumnSpec]:
    """Return the typed columns an experiment reads: each feature's, and @label, @weight, @user, @time, @truth.

    The marks keep a feature called `user` or `time` apart from the column that plays that part.
    """
    specs: dict[str, ColumnSpec] = {}
    for config in features:
        for name in config.names:
            if name in specs:
                raise ValueError(f"feature {name!r} is declared twice")
            if not isinstance(config, CategoricalConfig):
                specs[name] = ColumnSpec(name, "number")
            elif config.multivalued:
                specs[name] = ColumnSpec(name, "ids", separator=config.separator)
            else:
                specs[name] = ColumnSpec(name, config.buckets or "id")
    if data.user is not None:
        specs["@user"] = ColumnSpec(data.user, "id")
    if labelled:
        specs["@label"] = ColumnSpec(data.label.column, "label", threshold=data.label.threshold)
        roles: tuple[tuple[str, str | None, Kind], ...] = (
            ("@weight", data.weight, "weight"),
            ("@time", data.time, "integer"),
            ("@truth", data.truth, "number"),
        )
        for role, column, kind in roles:
            if column is not None:
                specs[role] = ColumnSpec(column, kind)
    return specs


def _written(data: DataConfig, root: Path, report: Progress) -> DataConfig:
    """Write a generated log once; every other source is already a file."""
    if data.generator is None:
        return data
    digest = hashlib.blake2b(data.generator.model_dump_json().encode(), digest_size=6).hexdigest()
    path = root / f"generated-{digest}.parquet"
    if not path.exists():
        generate(data.generator, path, progress=lambda rows: report("generate", rows))
    return data.model_copy(update={"source": "table", "path": path, "generator": None})


def _key(data: DataConfig, features: Sequence[FeatureConfig]) -> str:
    assert data.path is not None
    text = json.dumps(
        [
            FORMAT_VERSION,
            HASH_VERSION,
            data.model_dump(mode="json"),
            [feature.model_dump(mode="json") for feature in features],
            file_prints(data.path, BESIDE.get(data.source, ())),
        ]
    )
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _stage(data: DataConfig, specs: dict[str, ColumnSpec], out: Path, report: Progress) -> dict[str, Any]:
    """Read the source once into typed shards: ids as 64-bit integers, numbers as float64."""
    folder = out / "staged"
    done = folder / "staged.json"
    if done.exists():
        return json.loads(done.read_text())
    for name in ("staged", "quarantine", "features", *SPLITS):  # made from other staged rows, if at all
        shutil.rmtree(out / name, ignore_errors=True)
    folder.mkdir()
    try:
        staged = _read(data, specs, out, report)
    except BaseException:
        shutil.rmtree(folder)  # half of it is of no use to anyone
        raise
    write_json(staged, done)
    return staged


def _read(data: DataConfig, specs: dict[str, ColumnSpec], out: Path, report: Progress) -> dict[str, Any]:
    quarantine = Quarantine(data.quarantine_limit)
    source = open_source(data)
    rows_out = rows_added = 0
    parts: list[int] = []
    text: dict[str, bool] = {}

    def staged(numbered: tuple[int, Chunk]) -> tuple[int, Chunk, int, Quarantine]:
        """Type the rows of a chunk, and write them as the part of its number."""
        part, chunk = numbered
        bad = Quarantine()
        table = typed(chunk, specs, bad)
        if table.num_rows + bad.count != chunk.table.num_rows:
            raise AssertionError(
                f"{chunk.file}: rows were lost between reading and preparing; please report this"
            )
        if table.num_rows:
            write_shard(with_lone_users(table), _staged(out, part))
        return part, chunk, table.num_rows, bad

    chunks = source.chunks(sorted({spec.column for spec in specs.values()}), quarantine)
    for part, chunk, rows, bad in ordered(staged, enumerate(chunks)):
        quarantine.merge(bad)
        text.update(text_ids(chunk, specs))
        if rows:
            parts.append(part)
        rows_out += rows
        rows_added += chunk.added
        report("read", rows_out)
    rows_in = rows_out + quarantine.count - rows_added
    if quarantine.count:
        quarantine.write(out / "quarantine")
    quarantine.check(rows_in)
    if rows_out == 0:
        raise ValueError(f"{data.path}: holds no readable row")
    return {
        "rows_in": rows_in,
        "rows_added": rows_added,
        "rows_out": rows_out,
        "quarantined": quarantine.count,
        "parts": parts,
        "text_ids": text,
    }


def with_lone_users(table: pa.Table) -> pa.Table:
    """Give each row without a user one of its own: rows of nobody in particular are not rows of one user."""
    if "@user" not in table.column_names:
        return table
    users = table["@user"].to_numpy()
    lone = np.where(users == MISSING_ID, mix64(table["row_id"].to_numpy() ^ MISSING_ID), users)
    return table.set_column(table.column_names.index("@user"), "@user", pa.array(lone))


def _finish(
    data: DataConfig, features: Sequence[FeatureConfig], staged: dict[str, Any], out: Path, report: Progress
) -> dict[str, Any]:
    """Split, fit and write shards; return the manifest."""
    parts = [_staged(out, part) for part in staged["parts"]]
    bounds = _split_bounds(data.split, parts)
    fitter = FeatureFitter(features, staged["text_ids"])
    fitted = _fitted(fitter, data.split, bounds, out, parts, report)
    shards = _transform(fitted, data.split, bounds, out, parts, report)
    return {
        "format_version": FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "data": data.model_dump(mode="json"),
        "features": [feature.model_dump(mode="json") for feature in features],
        "columns": {name: str(kind) for f in fitted.features for name, kind in f.columns.items()},
        "vocabularies": {
            feature.name: {
                "num_codes": feature.num_codes,
                "full_codes": feature.full_codes,
                "vocabulary_bytes": feature.vocabulary_bytes,
            }
            for feature in fitted.categorical
        },
        "rows_in": staged["rows_in"],
        "rows_added": staged["rows_added"],
        "rows_out": staged["rows_out"],
        "quarantined": staged["quarantined"],
        "splits": {
            name: {
                count: sum(shard[count] for shard in shards.values() if shard["split"] == name)
                for count in ("rows", "positives")
            }
            for name in SPLITS
        },
        "shards": shards,
        "feature_files": {
            f"features/{file.name}": _digest(file) for file in sorted((out / "features").iterdir())
        },
    }


def _positions(table: pa.Table, split: SplitConfig) -> np.ndarray:
    """What rows [n] are cut by: time, row number, or a draw in [0, 1)."""
    if split.by == "random":
        return uniform(table["row_id"].to_numpy(), split.seed, "split")
    return table["@time" if split.by == "time" else "row_id"].to_numpy()


def _split_of(positions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for each row [n]: training, validation, test."""
    return np.searchsorted(bounds, positions, side="right")


def _split_bounds(split: SplitConfig, parts: Sequence[Path]) -> np.ndarray:
    """Positions [2] at which validation and test begin. Takes 8 bytes a row of the whole log."""
    shares = np.array([split.train, split.train + split.validation])
    positions = np.concatenate([_positions(read_shard(part), split) for part in parts])
    bounds = shares
    if split.by != "random":
        ranks = np.minimum(np.rint(shares * len(positions)).astype(np.int64), len(positions) - 1)
        positions.partition(ranks)
        bounds = positions[ranks]
    counts = np.bincount(_split_of(positions, bounds), minlength=len(SPLITS))
    for name, count in zip(SPLITS, counts, strict=True):
        if count == 0:
            reason = "; rows of one time stay together" if split.by == "time" else ""
            raise ValueError(
                f"data.split: by {split.by}, the {name} part gets none of {len(positions):,} rows{reason}; "
                "change the shares or bring more rows"
            )
    return bounds


def _fitted(
    fitter: FeatureFitter,
    split: SplitConfig,
    bounds: np.ndarray,
    out: Path,
    parts: Sequence[Path],
    report: Progress,
) -> Features:
    """Features fitted on the training rows, or those that an interrupted run has made its shards with."""
    folder = out / "features"
    if (folder / "features.json").exists():
        return Features.load(folder)
    rows = 0
    for part in parts:
        table = read_shard(part)
        fitter.add(table.filter(pa.array(_split_of(_positions(table, split), bounds) == 0)))
        rows += table.num_rows
        report("fit", rows)
    fitted = fitter.fit()
    fitted.save(folder)
    return fitted


def _transform(
    fitted: Features,
    split: SplitConfig,
    bounds: np.ndarray,
    out: Path,
    parts: Sequence[Path],
    report: Progress,
) -> dict[str, dict[str, Any]]:
    """Write the shards that are not there yet; return what the manifest says of each."""
    shards: dict[str, dict[str, Any]] = {}
    rows = 0
    for name in SPLITS:
        (out / name).mkdir(exist_ok=True)

    def written(part: Path) -> dict[str, dict[str, Any]]:
        """Shards of one part."""
        table = read_shard(part)
        split_of = _split_of(_positions(table, split), bounds)
        found = {}
        for number, name in enumerate(SPLITS):
            chosen = table.filter(pa.array(split_of == number))
            if chosen.num_rows == 0:
                continue
            path = out / name / part.name
            if not path.exists():
                write_shard(fitted.transform(chosen), path)
            found[f"{name}/{path.name}"] = {
                "split": name,
                "rows": chosen.num_rows,
                "positives": int(chosen["@label"].to_numpy().sum()),
                "blake2b": _digest(path),
            }
        return found

    for found in ordered(written, parts):
        shards |= found
        rows += sum(shard["rows"] for shard in found.values())
        report("write", rows)
    return shards


def _staged(out: Path, part: int) -> Path:
    return out / "staged" / f"part-{part:05d}.arrow"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type,return-value]
