"""Preparation: source -> typed rows -> split, fitted features -> Arrow shards with a manifest.

    <root>/<name>-<key>/
        manifest.json                        written last: a folder without one is unfinished
        staged/                              typed rows of all splits, while unfinished
        history/                             sequences of all rows, while unfinished
        features/                            fitted features, and what they were fitted from
        train/ validation/ test/ part-*.arrow
        quarantine/quarantine.csv            rows that could not be read, with file, row, field, value, reason

`<key>` is a digest of everything the result depends on, so preparing twice does nothing the second time.
Files appear when whole, and what follows from others after them: staged rows, features, shards, manifest.
A run that was killed does again only what has no file yet. `steps` says what is done to a part, `Runner` where:
on threads of this process, or on Ray (`on_ray`), with the same shards to the byte.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recsys_cython_ext import HASH_VERSION, xxh64
from recsys_cython_ext.files import file_digest, link, locked, text_digest
from recsys_cython_ext.manifest import write_manifest
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.config import CategoricalConfig, DataConfig, FeatureConfig
from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT
from recsys_pipelines.features import Features, kept_ids, sequences_of
from recsys_pipelines.preparation.doubts import split_doubts, vocabulary_doubts
from recsys_pipelines.preparation.prepared import (
    COUNTS,
    FORMAT_VERSION,
    ManifestError,
    Prepared,
    PreparedManifest,
    Shard,
    SplitCounts,
    VocabularySize,
)
from recsys_pipelines.preparation.roles import column_specs
from recsys_pipelines.preparation.split import SPLITS, TIME_CUT
from recsys_pipelines.preparation.staged import Staged
from recsys_pipelines.preparation.steps import Job
from recsys_pipelines.preparation.threads import Runner, Threads
from recsys_pipelines.quarantine import TooManyBadRows
from recsys_pipelines.shards import read_arrays, write_arrays
from recsys_pipelines.sources import BESIDE, SourceError
from recsys_pipelines.sources.base import existing
from recsys_pipelines.sources.generated import generate
from recsys_pipelines.sources.location import file_prints, located


def prepare(
    data: DataConfig,
    features: Sequence[FeatureConfig],
    root: str | os.PathLike[str],
    progress: Progress = no_progress,
    *,
    runner: Runner | None = None,
    base: Prepared | None = None,
) -> Prepared:
    """Prepare `data` under `root`, or return what is already there.

    Rows in + rows added (by sources that make two rows of one) = rows out + rows quarantined.

    Args:
        data: The log.
        features: What is made of it.
        root: The folder that prepared folders lie in.
        progress: Is told how far the work has come.
        runner: Where the work is done; threads of this process unless given.
        base: An earlier set of the same features, to which the rows of `data` are appended: its shards stay as they are,
            vocabularies grow without renumbering its ids, and every other feature stays as it was fitted.

    Raises:
        SourceError: A file cannot be read.
        TooManyBadRows: The share of quarantined rows passes `data.quarantine_limit`.
        ManifestError: `base` is damaged, has other features or roles of columns, these rows already, or a vocabulary of
            fingerprints, which cannot grow.
        ValueError: A feature is declared twice, or a sequence lacks what it needs.
    """
    runner, root = runner or Threads(), Path(root)
    column_specs(data, features, labelled=True)  # raises for what cannot be
    _check_sequences(data, features)
    root.mkdir(parents=True, exist_ok=True)
    if data.path is not None:
        existing(data.path)
    readable = _written(data, root, progress)
    assert readable.path is not None
    files = _files(readable)
    if base is not None:
        _check_base(base, data, features, files)
    name = (readable.path or Path("data")).stem
    out = root / f"{name}-{_key(readable, features, files, base)}"
    if not (out / "manifest.json").exists() or (out / "staged").exists():
        out.mkdir(exist_ok=True)
        with locked(out / ".lock"):
            if not (out / "manifest.json").exists():
                manifest = _make(_job(readable, features, out, base), base, runner, progress)
                if _files(readable) != files:
                    shutil.rmtree(out / "staged")
                    raise SourceError(
                        f"{readable.path}: has changed while it was read: prepare again when it is complete"
                    )
                before = [] if base is None else base.manifest.files
                # data as declared: a generated log is read from the file that was written of it
                manifest |= {"data": data.model_dump(mode="json"), "files": before + files}
                write_manifest(PreparedManifest(**manifest), out / "manifest.json")
            for finished in ("staged", "history"):
                shutil.rmtree(out / finished, ignore_errors=True)
    return Prepared.open(out)


def _written(data: DataConfig, root: Path, report: Progress) -> DataConfig:
    """Write a generated log once; every other source is already a file."""
    if data.generator is None:
        return data
    path = root / f"generated-{text_digest(data.generator.model_dump_json())}.parquet"
    if not path.exists():
        generate(data.generator, path, report)
    return data.model_copy(update={"source": "table", "path": path, "generator": None})


def _check_sequences(data: DataConfig, features: Sequence[FeatureConfig]) -> None:
    for sequence in sequences_of(features):
        if data.user is None or data.time is None or data.split.by != "time":
            raise ValueError(
                f"feature {sequence.name!r} is a user's earlier events: name the columns in data.user and data.time, "
                "and set split.by: time, for in another split the events of training rows would tell of test rows"
            )
        likes = [f for f in features if isinstance(f, CategoricalConfig) and sequence.like in f.names]
        if sequence.like is not None and (
            not likes
            or dict(zip(likes[0].names, likes[0].columns, strict=True))[sequence.like] != sequence.column
            or likes[0].buckets is not None
        ):
            raise ValueError(
                f"feature {sequence.name!r}: like: {sequence.like!r} is no categorical feature of the column "
                f"{sequence.column!r}: declare one, without buckets, or leave `like` out"
            )


def _files(data: DataConfig) -> list[list[Any]]:
    """Return what tells whether the files of a log have changed."""
    assert data.path is not None
    beside, subfolders = BESIDE.get(data.source, ()), data.source == "table"
    return [list(file) for file in file_prints(data.path, beside, subfolders=subfolders)]


def _key(
    data: DataConfig, features: Sequence[FeatureConfig], files: list[list[Any]], base: Prepared | None
) -> str:
    vocabularies = []  # of ids to keep the content, wherever they lie
    for feature in features:
        if isinstance(feature, CategoricalConfig) and feature.vocabulary is not None:
            path = located(feature.vocabulary)
            if not path.exists():
                raise SourceError(
                    f"{path}: there is no such vocabulary, which feature {feature.names[0]!r} names"
                )
            vocabularies.append(file_prints(path))
        if (keep := getattr(feature, "keep", None)) is not None:
            ids_of = {name: kept_ids(keep, name) for name in feature.names}
            vocabularies.append([(name, f"{xxh64(ids.tobytes()):016x}") for name, ids in ids_of.items()])
    text = json.dumps(
        [
            FORMAT_VERSION,
            *([TIME_CUT] if data.split.by == "time" else []),
            HASH_VERSION,
            data.model_dump(mode="json"),
            [feature.model_dump(mode="json", exclude={"keep"}) for feature in features],
            files,
            vocabularies,
            None if base is None else base.path.name,
        ]
    )
    return text_digest(text)


def _check_base(
    base: Prepared, data: DataConfig, features: Sequence[FeatureConfig], files: list[list[Any]]
) -> None:
    """Raise ManifestError unless rows of `data` mean what those of `base` do, are others, and vocabularies can grow."""
    base.verify()
    base.require_same(data, features)
    for feature in features:
        fixed = getattr(feature, "vocabulary", None) is not None
        if getattr(feature, "form", EXACT) == FINGERPRINT and not fixed:
            raise ManifestError(
                f"feature {feature.names[0]!r}: `form: fingerprint` keeps no ids, so its vocabulary cannot grow by those "
                "of a new day: prepare all days again as one set, or append to a set of `form: exact`"
            )
    for file in files:
        if file in base.manifest.files:
            raise ManifestError(f"{base.path}: holds the rows of {file[0]} already: name a new file")


def _job(data: DataConfig, features: Sequence[FeatureConfig], out: Path, base: Prepared | None) -> Job:
    if base is None:
        return Job(data, tuple(features), out)
    shards = tuple(base.path / name for name in base.manifest.shards)
    return Job(data, tuple(features), out, base.manifest.next_row, shards, base.manifest.rows_out)


def _make(job: Job, base: Prepared | None, runner: Runner, report: Progress) -> dict[str, Any]:
    """Stage, split, fit and write shards; return the manifest, but for `data` and `files`."""
    staged = _staged(job, runner, report)
    if base is not None:
        base.features().check_text(staged.text, str(job.data.path))
    job.decide_split(staged)
    if sequences_of(job.features):
        runner.write_histories(job, staged, report)
    _fit(job, staged, base, runner, report)
    job.fitted_for_training  # noqa: B018 (loaded once, before threads ask for it or workers get the job)
    fitted = job.fitted
    shards = {} if base is None else _linked(base, job.out)
    shards |= runner.encode(job, staged, report)
    return _manifest(job, staged, base, fitted, shards)


def _staged(job: Job, runner: Runner, report: Progress) -> Staged:
    """Read and type the log, but for the parts that an interrupted run has staged."""
    if not (job.out / "staged").exists():  # what is there was made from other staged rows, if at all
        for name in ("history", "quarantine", "features", *SPLITS):
            shutil.rmtree(job.out / name, ignore_errors=True)
        (job.out / "staged").mkdir()
    try:
        return runner.stage(job, report)
    except TooManyBadRows:  # nobody will go on from these rows
        shutil.rmtree(job.out / "staged")
        raise


def _fit(job: Job, staged: Staged, base: Prepared | None, runner: Runner, report: Progress) -> None:
    """Fit the features and save them, unless that was done."""
    folder = job.out / "features"
    folder.mkdir(exist_ok=True)
    if (folder / "features.json").exists():
        return
    fitter = runner.fit(job, staged, report)
    if base is not None:
        fitter.merge(read_arrays(base.path / "features" / COUNTS))
    write_arrays(fitter.arrays(), folder / COUNTS)
    job.fitted = fitter.fit(None if base is None else base.features())
    job.fitted.save(folder)


def _manifest(
    job: Job, staged: Staged, base: Prepared | None, fitted: Features, shards: dict[str, Shard]
) -> dict[str, Any]:
    splits = {name: _split_counts(shards, name) for name in SPLITS}
    before = {} if base is None else base.manifest.row_counts
    totals = ("rows_in", "rows_added", "rows_out", "quarantined")
    files = sorted((job.out / "features").glob("[!.]*"))
    return {
        "format_version": FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "features": [feature.model_dump(mode="json") for feature in job.features],
        "appended_to": None if base is None else base.path.name,
        "columns": {name: str(kind) for f in fitted.features for name, kind in f.columns.items()},
        "vocabularies": {
            feature.name: VocabularySize(
                num_codes=feature.num_codes,
                full_codes=feature.full_codes,
                vocabulary_bytes=feature.vocabulary_bytes,
            )
            for feature in fitted.categorical
        },
        **{name: before.get(name, 0) + getattr(staged, name) for name in totals},
        "next_row": staged.next_row,
        "splits": splits,
        "doubts": [
            *split_doubts(job.data.split, splits),
            *vocabulary_doubts(job.data, fitted, job.out / "features" / COUNTS),
        ],
        "shards": shards,
        "feature_files": {f"features/{file.name}": file_digest(file) for file in files},
    }


def _split_counts(shards: dict[str, Shard], split: str) -> SplitCounts:
    of_split = [shard for shard in shards.values() if shard.split == split]
    rows, positives = (sum(getattr(shard, name) for shard in of_split) for name in ("rows", "positives"))
    return SplitCounts(rows=rows, positives=positives)


def _linked(base: Prepared, out: Path) -> dict[str, Shard]:
    """Link the shards of `base`, and its quarantine, under other names, without copying where the disk allows."""
    shards = {}
    for file in (base.path / "quarantine").glob("*.csv"):
        (out / "quarantine").mkdir(exist_ok=True)
        link(file, out / "quarantine" / f"base-{file.name}")
    for name, shard in base.manifest.shards.items():
        split, _, part = name.partition("/")
        target = f"{split}/base-{part}"
        (out / split).mkdir(parents=True, exist_ok=True)
        link(base.path / name, out / target)
        shards[target] = shard
    return shards
