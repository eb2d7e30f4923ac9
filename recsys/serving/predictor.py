"""A model that was exported, without torch: rows in, click probabilities out.

<folder>/manifest.json, tables/, …   `recsys_tables.serving.artefact`
<folder>/request/                    `recsys_pipelines.request.transform`
<folder>/network.onnx                `recsys.serving.network`
<folder>/model.json                  what the network reads, and how its answer becomes a probability
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys_cython_ext.extras import require
from recsys_cython_ext.manifest import DamagedFile, Manifest, OtherVersion, read_manifest
from recsys_pipelines.request.inputs import Bags
from recsys_pipelines.request.transform import Encoded, RequestTransform
from recsys_tables.serving import artefact
from recsys_tables.serving.artefact import Artefact, ArtefactError

FORMAT_VERSION = 1
MODEL, NETWORK, REQUEST = "model.json", "network.onnx", "request"
ROWS_AT_ONCE = 4096  # that the network answers, so that memory is bounded


class ServedModel(Manifest):
    """The content of model.json: fields of `vectors` in their order, histories, and the share of negatives kept."""

    format_version: int
    name: str
    pooled: list[str]
    histories: list[str]
    negative_rate: float


class Predictor:
    """An exported model; threads may share it, for nothing of it changes after opening."""

    def __init__(self, tables: Artefact, model: ServedModel, threads: int) -> None:
        self.artefact = tables
        self.model = model
        self.transform = RequestTransform(tables.file(f"{REQUEST}/request.json").parent)
        self._session = _session(tables.file(NETWORK), threads)
        self._shift = math.log(model.negative_rate)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True, threads: int = 1) -> "Predictor":
        """Open a folder that `recsys export` wrote; its tables and vocabularies are mapped.

        Args:
            folder: The folder.
            verify: Whether every file is read once, and its checksum compared.
            threads: Of the network's products, for one call.

        Raises:
            ArtefactError: A file is missing or damaged, of another version, or was exported without the network.
            MissingExtra: onnxruntime is not installed.
        """
        tables = artefact.open(folder, verify)
        if NETWORK not in tables.files:
            raise ArtefactError(
                f"{folder}: was exported without its network, for which onnx and onnxscript were missing: pip install "
                "'recsys-embedding-tables[export]' and export the run again, under another name"
            )
        versions = {"format_version": FORMAT_VERSION}
        try:
            model = read_manifest(tables.file(MODEL), ServedModel, versions, "export again")
            return cls(tables, model, threads)
        except (DamagedFile, OtherVersion) as error:
            raise ArtefactError(str(error)) from None

    def predict(self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return click probabilities, float64 [n], of a dict of source columns, or a list of n of them.

        A column that is absent, None or NaN is missing. Raises BadRequest for a column that no feature reads, or a value
        that is not what was declared.
        """
        listed = [rows] if isinstance(rows, Mapping) else rows
        parts = [
            self.score(self.transform.encode(listed[first : first + ROWS_AT_ONCE]))
            for first in range(0, len(listed), ROWS_AT_ONCE)
        ]
        return np.concatenate([np.empty(0), *parts])

    def rank(self, context: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return click probabilities, float64 [n], of n items for one context, such as a user: columns of both are one row.

        What depends on the context alone is made once. Raises BadRequest as `predict` does.
        """
        if not items:
            return np.empty(0)
        of_items = self.transform.features_of({column for item in items for column in item})
        shared = self.transform.encode([context], _Outside(of_items))
        own = self.transform.encode([{**context, **item} for item in items], of_items)
        return self._answer(own, shared)

    def vectors(self, feature: str, values: Sequence[Any]) -> np.ndarray:
        """Return the vectors, float32 [n, D], of n values of the column that a feature of ids reads."""
        return self.artefact.vectors(feature, self.transform.ids_of(feature, values))

    def score(self, encoded: Encoded) -> np.ndarray:
        """Return click probabilities, float64 [n], of encoded rows."""
        return self._answer(encoded, Encoded(1))

    def _answer(self, encoded: Encoded, shared: Encoded) -> np.ndarray:
        """Return the probabilities of rows, of which some features are in `shared`, one row for all."""
        rows = encoded.rows
        vectors = [self._pooled(name, encoded, shared) for name in self.model.pooled]
        inputs = {"dense": self._dense(encoded, shared), "vectors": np.stack(vectors, axis=1)}
        for number, name in enumerate(self.model.histories):
            bags = encoded.bags.get(name) or _repeated(shared.bags[name], rows)
            inputs[f"history_{number}"], inputs[f"lengths_{number}"] = self._padded(name, bags)
        wanted = {item.name for item in self._session.get_inputs()}
        (logit,) = self._session.run(None, {name: value for name, value in inputs.items() if name in wanted})
        shifted = logit.astype(np.float64).reshape(rows) + self._shift
        return np.exp(-np.logaddexp(0.0, -shifted))

    def _dense(self, encoded: Encoded, shared: Encoded) -> np.ndarray:
        if not shared.numbers:
            return encoded.dense
        repeated = {
            name: [np.repeat(column, encoded.rows) for column in columns]
            for name, columns in shared.numbers.items()
        }
        either = repeated | encoded.numbers
        return replace(
            encoded, numbers={name: either[name] for name in self.transform.order if name in either}
        ).dense

    def _pooled(self, name: str, encoded: Encoded, shared: Encoded) -> np.ndarray:
        if name in encoded.bags:
            return self._vectors_of(name, encoded.bags[name])
        vector = self._vectors_of(name, shared.bags[name])
        return np.broadcast_to(vector, (encoded.rows, vector.shape[1]))

    def _vectors_of(self, name: str, bags: Bags) -> np.ndarray:
        ids = bags.values.astype(np.int64, copy=False)
        if bags.weights is None and bags.single:
            return self.artefact.vectors(name, ids)
        return self.artefact.pooled(name, ids, bags.offsets, bags.weights)

    def _padded(self, name: str, bags: Bags) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of histories, float32 [n, longest, D], zeros behind their ends, and lengths int64 [n]."""
        lengths = np.diff(bags.offsets)
        vectors = self.artefact.vectors(name, bags.values.astype(np.int64, copy=False))
        if bags.weights is not None:
            vectors = vectors * bags.weights[:, None]
        padded = np.zeros((len(lengths), max(1, int(lengths.max(initial=0))), vectors.shape[1]), np.float32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = vectors
        return padded, lengths


class _Outside:
    """The names that are not among some."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def __contains__(self, name: object) -> bool:
        return name not in self._names


def _repeated(bags: Bags, rows: int) -> Bags:
    """Return the bag of one row for each of `rows`."""
    offsets = np.arange(rows + 1) * len(bags.values)
    weights = None if bags.weights is None else np.tile(bags.weights, rows)
    return replace(bags, values=np.tile(bags.values, rows), offsets=offsets, weights=weights)


def _session(file: Path, threads: int) -> Any:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many classes of its own
        raise ArtefactError(f"{file}: no network that onnxruntime can run ({error}); export again") from None
