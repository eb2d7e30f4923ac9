"""Preparation: source -> typed rows -> split, fitted features -> Arrow shards with a manifest.

    <root>/<name>-<key>/
        manifest.json                        written last: a folder without one is unfinished
        features/                            fitted features
        train/ validation/ test/ part-*.arrow
        quarantine/quarantine.csv            rows that could not be read, with file, row, field, value, reason

`<key>` is a digest of everything the result depends on, so preparing twice does nothing the second time.
A run that was killed starts from its staged rows and keeps the shards it finished.
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

from recsys_cython_ext import HASH_VERSION
from recsys_pipelines.config import CategoricalConfig, DataConfig, FeatureConfig, SplitConfig
from recsys_pipelines.convert import ColumnSpec, typed
from recsys_pipelines.features import FeatureFitter, Features
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.shards import read_shard, uniform, write_json, write_shard
from recsys_pipelines.sources import open_source
from recsys_pipelines.sources.generated import generate

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
        manifest = json.loads(file.read_text())
        versions = (manifest["format_version"], manifest["hash_version"])
        if versions != (FORMAT_VERSION, HASH_VERSION):
            raise ManifestError(
                f"{path}: prepared with format and hash versions {versions}, this is "
                f"{(FORMAT_VERSION, HASH_VERSION)}; delete the folder and prepare again"
            )
        return cls(path, manifest)

    def verify(self) -> None:
        """Compare every shard with its checksum. Raises ManifestError naming the damaged file."""
        for name, shard in self.manifest["shards"].items():
            file = self.path / name
            if not file.exists() or _digest(file) != shard["blake2b"]:
                raise ManifestError(f"{file}: missing or damaged; delete {self.path} and prepare again")


def prepare(
    data: DataConfig, features: Sequence[FeatureConfig], root: Path, progress: Progress | None = None
) -> Prepared:
    """Prepare `data` under `root`, or return what is already there.

    Rows in = rows out + rows quarantined. Raises SourceError for an unreadable file and TooManyBadRows
    when the share of quarantined rows passes `data.quarantine_limit`.
    """
    report = progress or (lambda stage, rows: None)
    root.mkdir(parents=True, exist_ok=True)
    readable = _written(data, root, report)
    name = (readable.path or Path("data")).stem
    out = root / f"{name}-{_key(readable, features)}"
    if (out / "manifest.json").exists():
        return Prepared.open(out)
    out.mkdir(exist_ok=True)
    staged = _stage(readable, features, out, report)
    bounds = _split_bounds(data, out, staged["parts"])
    fitted = _fit(features, data.split, bounds, out, staged["parts"], report)
    fitted.save(out / "features")
    shards = _transform(fitted, data.split, bounds, out, staged["parts"], report)
    manifest = _manifest(data, features, fitted, staged, shards)
    write_json(manifest, out / "manifest.json")
    shutil.rmtree(out / "staged")
    return Prepared(out, manifest)


def column_specs(
    data: DataConfig, features: Sequence[FeatureConfig], *, labelled: bool
) -> dict[str, ColumnSpec]:
    """Return the typed columns an experiment reads: each feature's, and label, weight, user, time, truth."""
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
        specs["user"] = ColumnSpec(data.user, "id")
    if labelled:
        specs["label"] = ColumnSpec(data.label.column, "label", threshold=data.label.threshold)
        for role, column, kind in (
            ("weight", data.weight, "weight"),
            ("time", data.time, "integer"),
            ("truth", data.truth, "number"),
        ):
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
    files = sorted(p for p in data.path.rglob("*") if p.is_file()) if data.path.is_dir() else [data.path]
    prints = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]
    text = json.dumps(
        [
            FORMAT_VERSION,
            HASH_VERSION,
            data.model_dump(mode="json"),
            [feature.model_dump(mode="json") for feature in features],
            prints,
        ]
    )
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _stage(
    data: DataConfig, features: Sequence[FeatureConfig], out: Path, report: Progress
) -> dict[str, Any]:
    """Read the source once into typed shards: ids as 64-bit integers, numbers as float64."""
    folder = out / "staged"
    done = folder / "staged.json"
    if done.exists():
        return json.loads(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    specs = column_specs(data, features, labelled=True)
    quarantine = Quarantine(data.quarantine_limit)
    source = open_source(data)
    rows_out = parts = 0
    for chunk in source.chunks(sorted({spec.column for spec in specs.values()}), quarantine):
        table = typed(chunk, specs, quarantine)
        if table.num_rows:
            write_shard(table, _staged(out, parts))
            parts += 1
        rows_out += table.num_rows
        report("read", rows_out)
    rows_in = rows_out + quarantine.count
    if quarantine.count:
        quarantine.write(out / "quarantine")
    quarantine.check(rows_in)
    if rows_out == 0:
        raise ValueError(f"{data.path}: holds no readable row")
    staged = {"rows_in": rows_in, "rows_out": rows_out, "quarantined": quarantine.count, "parts": parts}
    write_json(staged, done)
    return staged


def _split_bounds(data: DataConfig, out: Path, parts: int) -> tuple[float, float]:
    """Where validation and test begin, in the unit that `_position` gives a row."""
    train, validation = data.split.train, data.split.train + data.split.validation
    if data.split.by == "random":
        return train, validation
    column = "time" if data.split.by == "time" else "row_id"
    keys = np.sort(
        np.concatenate([read_shard(_staged(out, part))[column].to_numpy() for part in range(parts)])
    )
    return tuple(float(keys[min(round(len(keys) * share), len(keys) - 1)]) for share in (train, validation))  # type: ignore[return-value]


def _split_of(table: pa.Table, split: SplitConfig, bounds: tuple[float, float]) -> np.ndarray:
    """0, 1 or 2 for each row: training, validation, test."""
    if split.by == "random":
        position = uniform(table["row_id"].to_numpy(), split.seed)
    else:
        position = table["time" if split.by == "time" else "row_id"].to_numpy()
    return np.searchsorted(np.asarray(bounds), position, side="right")


def _fit(
    features: Sequence[FeatureConfig],
    split: SplitConfig,
    bounds: tuple[float, float],
    out: Path,
    parts: int,
    report: Progress,
) -> Features:
    fitter = FeatureFitter(features)
    rows = 0
    for part in range(parts):
        table = read_shard(_staged(out, part))
        fitter.add(table.filter(pa.array(_split_of(table, split, bounds) == 0)))
        rows += table.num_rows
        report("fit", rows)
    return fitter.fit()


def _transform(
    fitted: Features,
    split: SplitConfig,
    bounds: tuple[float, float],
    out: Path,
    parts: int,
    report: Progress,
) -> dict[str, dict[str, Any]]:
    shards: dict[str, dict[str, Any]] = {}
    rows = 0
    for name in SPLITS:
        (out / name).mkdir(exist_ok=True)
    for part in range(parts):
        table = read_shard(_staged(out, part))
        split_of = _split_of(table, split, bounds)
        for number, name in enumerate(SPLITS):
            chosen = table.filter(pa.array(split_of == number))
            if chosen.num_rows == 0:
                continue
            path = out / name / f"part-{part:05d}.arrow"
            if not path.exists():
                write_shard(fitted.transform(chosen), path)
            label = chosen["label"].to_numpy()
            shards[f"{name}/{path.name}"] = {
                "split": name,
                "rows": chosen.num_rows,
                "positives": int(label.sum()),
                "blake2b": _digest(path),
            }
        rows += table.num_rows
        report("write", rows)
    return shards


def _manifest(
    data: DataConfig,
    features: Sequence[FeatureConfig],
    fitted: Features,
    staged: dict[str, Any],
    shards: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    splits = {
        name: {
            "rows": sum(shard["rows"] for shard in shards.values() if shard["split"] == name),
            "positives": sum(shard["positives"] for shard in shards.values() if shard["split"] == name),
        }
        for name in SPLITS
    }
    for name, counts in splits.items():
        if counts["rows"] == 0:
            raise ValueError(
                f"{data.path}: the {name} part holds no rows; change `data.split` or bring more rows"
            )
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
        "rows_out": staged["rows_out"],
        "quarantined": staged["quarantined"],
        "splits": splits,
        "shards": shards,
    }


def _staged(out: Path, part: int) -> Path:
    return out / "staged" / f"part-{part:05d}.arrow"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type,return-value]
