"""Codes are learned from trained full tables: ids whose rows are alike, in whatever field, read one row of a small one."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.compression.saliency import importance
from recsys.compression.supernet import full_model
from recsys.config import ConfigError
from recsys.planning import plan_of
from recsys.training.run import Run
from recsys_cython_ext import MISSING_ID
from recsys_cython_ext.progress import Progress, no_progress
from recsys_cython_ext.vocabulary import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.features.categorical import Categorical
from recsys_tables.codes import Codes

SAMPLE = 256  # ids for each centroid that k-means sees at most, as faiss has it
ITERATIONS = 25
LARGE = 1 << 18  # vectors in the sample beyond which k-means takes mini-batches
_BATCH = 1 << 14  # vectors of a mini-batch
PASSES, PASSES_OF_BATCHES = (
    100,
    12,
)  # of such products over the sample, that k-means and mini-batches take at most
_BLOCK = 1 << 14  # ids that are assigned at a time

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrainedIds:
    """What teachers have learned of the ids of training, by feature with a table of its own.

    ids: int64 [n], distinct, as a student reads them.
    vectors: float32 [n, runs, D], the rows of every teacher.
    impressions: int64 [n], in training.
    importance: float64 [n], Σ over impressions and teachers of the squared gradient by the id's vector.
    """

    ids: Mapping[str, np.ndarray]
    vectors: Mapping[str, Array]
    impressions: Mapping[str, np.ndarray]
    importance: Mapping[str, np.ndarray]

    def seen(self, min_count: int) -> "TrainedIds":
        """Return what is known of ids with at least `min_count` impressions."""
        often = {name: counts >= min_count for name, counts in self.impressions.items()}
        parts = (self.ids, self.vectors, self.impressions, self.importance)
        return TrainedIds(*({name: values[often[name]] for name, values in part.items()} for part in parts))

    def num_seen(self, min_count: int) -> int:
        """Count the ids with at least `min_count` impressions."""
        return sum(int(np.count_nonzero(counts >= min_count)) for counts in self.impressions.values())

    def __len__(self) -> int:
        return sum(map(len, self.ids.values()))


def trained_ids(
    teachers: Sequence[Run], train: Rows, student: Features, progress: Progress = no_progress
) -> TrainedIds:
    """Read the rows of teachers, and what they matter.

    Args:
        teachers: Finished runs of full tables.
        train: The training rows of the teachers.
        student: Its features; those of the teachers that it lacks are left out.
        progress: Is told how many rows of how many are done.

    Raises:
        ConfigError: The tables of a teacher are not full.
        CheckpointError: As `Run.checkpoint` does.
    """
    weights = [_full_tables(run) for run in teachers]
    impressions = {name: np.zeros(len(table), np.int64) for name, table in weights[0].items()}
    by_teacher = []
    size = teachers[0].config.evaluation.batch_size
    for number, (run, tables) in enumerate(zip(teachers, weights, strict=True), start=1):
        done = f"importance of ids, teacher {number} of {len(teachers)}"
        by_teacher.append(
            importance(full_model(run, tables), train, size, lambda _, *n, d=done: progress(d, *n))
        )
    readers = {
        scheme.feature: scheme.owner.feature for scheme in plan_of(teachers[0].config, train.features).schemes
    }
    for feature, owner in readers.items():
        impressions[owner] += np.bincount(train.ids_of(feature), minlength=len(impressions[owner]))
    by_student = {feature.name: feature for feature in student.categorical}
    codes = {name: _known(counts) for name, counts in impressions.items() if name in by_student}
    fitted = {feature.name: feature for feature in train.features.categorical}
    return TrainedIds(
        ids={name: _as_read(fitted[name], by_student[name], known) for name, known in codes.items()},
        vectors={name: np.stack([t[name][known] for t in weights], axis=1) for name, known in codes.items()},
        impressions={name: impressions[name][known] for name, known in codes.items()},
        importance={name: sum(part[name][known] for part in by_teacher) for name, known in codes.items()},
    )


def learned_codes(
    trained: TrainedIds,
    num_embeddings: int,
    num_chunks: int = 1,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Codes:
    """Return codes by k-means of the teachers' rows, side by side and weighted by importance, in each chunk for itself.

    Where there are no more ids than rows, every id has a row of its own.

    Args:
        trained: The ids, and what is known of them.
        num_embeddings: Rows of a shared table that codes name.
        num_chunks: Shared tables; vectors are cut into so many (product quantisation: Jégou et al., PAMI 2011).
        seed: Of the first centroids.
        progress: Is told how many chunks of how many are done.

    Raises:
        ValueError: As of `Codes.build`.
    """
    weights = np.concatenate(list(trained.importance.values()))
    _, teachers, dim = next(iter(trained.vectors.values())).shape
    width = dim // num_chunks
    chunks = []
    for chunk in range(num_chunks):
        columns = slice(chunk * width, (chunk + 1) * width)
        parts = [
            of_field[:, :, columns].reshape(len(of_field), teachers * width)
            for of_field in trained.vectors.values()
        ]
        chunks.append(nearest_centroids(np.concatenate(parts), weights, num_embeddings, seed))
        progress("k-means, chunks", chunk + 1, num_chunks)
    return _codes(trained, np.stack(chunks, axis=1), num_embeddings)


def clustering_seconds(num_vectors: int, width: int, clusters: int) -> float:
    """Return how long `nearest_centroids` takes here at most, from the product of one block of vectors with centroids."""
    if num_vectors <= clusters:
        return 0.0
    random = np.random.default_rng(0)
    block = random.random((_BLOCK, width), dtype=np.float32)
    centroids = random.random((width, clusters), dtype=np.float32)
    began = time.perf_counter()
    (block @ centroids).argmin(axis=1)
    seconds = time.perf_counter() - began
    sampled = min(num_vectors, SAMPLE * clusters)
    passes = PASSES_OF_BATCHES if sampled > LARGE else PASSES
    return seconds * (num_vectors + passes * sampled) / _BLOCK


def random_codes(trained: TrainedIds, num_embeddings: int, num_chunks: int = 1, seed: int = 0) -> Codes:
    """Return codes that are drawn at random: a control, of as many bytes as learned ones."""
    rows = np.random.default_rng(seed).integers(0, num_embeddings, (len(trained), num_chunks))
    return _codes(trained, rows, num_embeddings)


def row_use(codes: Codes, ids: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Return how many rows, of all chunks, some of the `ids` [n] by feature read, and how many several features do."""
    readers = np.zeros((codes.num_chunks, codes.num_rows), np.int64)
    for feature, values in ids.items():
        for chunk, rows in enumerate(codes.rows(values, feature)):
            readers[chunk, np.unique(rows)] += 1
    return int(np.count_nonzero(readers)), int(np.count_nonzero(readers > 1))


def nearest_centroids(vectors: Array, weights: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Return the cluster int64 [n] of each vector [n, d] by weighted k-means (Lloyd, from k-means++).

    Centroids are found on at most `SAMPLE` vectors a cluster, drawn at random; more than `LARGE` of them in mini-batches
    (Sculley, WWW 2010), for k-means++ alone would take minutes there. Where there are no more vectors than clusters,
    each is a cluster of its own.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(vectors) <= clusters:
        return np.arange(len(vectors))
    weights = np.maximum(weights, weights.max(initial=0) * 1e-9 or 1.0)  # no id may weigh nothing
    random = np.random.default_rng(seed)
    most = min(len(vectors), SAMPLE * clusters)
    sample = np.sort(random.choice(len(vectors), most, replace=False))
    settings: dict[str, Any] = {"n_init": 1, "max_iter": ITERATIONS, "random_state": seed}
    means: Any = (
        MiniBatchKMeans(clusters, batch_size=_BATCH, **settings)
        if most > LARGE
        else KMeans(clusters, copy_x=False, **settings)
    )
    means.fit(np.ascontiguousarray(vectors[sample]), sample_weight=weights[sample])
    blocks = range(0, len(vectors), _BLOCK)
    parts = [means.predict(np.ascontiguousarray(vectors[first : first + _BLOCK])) for first in blocks]
    return np.concatenate(parts).astype(np.int64)


def _codes(trained: TrainedIds, rows: np.ndarray, num_embeddings: int) -> Codes:
    ends = np.cumsum([len(ids) for ids in trained.ids.values()])[:-1]
    return Codes.build(trained.ids, dict(zip(trained.ids, np.split(rows, ends), strict=True)), num_embeddings)


def _full_tables(run: Run) -> dict[str, Array]:
    """Read the tables of a run by feature."""
    if run.config.tables.scheme != "full":
        raise ConfigError(
            f"{run.path}: a teacher of codes has full tables, and these are {run.config.tables.scheme!r}: name another "
            "in training.teacher.experiment, or none"
        )
    saved = run.checkpoint()
    owners = {scheme.owner.feature: scheme.owner for scheme in plan_of(run.config, run.features()).schemes}
    return {name: saved.read(f"table/{scheme.tables()[0].name}").numpy() for name, scheme in owners.items()}


def _known(impressions: np.ndarray) -> np.ndarray:
    """Return the codes that training has, without that of unknown ids, for those have no one id."""
    return np.setdiff1d(np.flatnonzero(impressions), [UNKNOWN_CODE])


def _as_read(teacher: object, student: object, codes: np.ndarray) -> np.ndarray:
    """Return the ids that a student reads where a teacher reads `codes`."""
    if not isinstance(teacher, Categorical) or not isinstance(student, Categorical):
        return codes  # the same parts of dates and buckets
    ids = np.full(len(codes), MISSING_ID)
    known = codes != MISSING_CODE
    ids[known] = teacher.ids[codes[known] - FIRST_CODE]
    return student.encode_ids(ids).astype(np.int64)
