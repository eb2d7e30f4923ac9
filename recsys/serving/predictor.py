"""A model that was exported, without torch: rows in, click probabilities out.

<folder>/manifest.json, tables/, …   `recsys_tables.serving.artefact`
<folder>/request/                    `recsys_pipelines.request.transform`
<folder>/features/                   `recsys_pipelines.features`, by whose declarations frames are read
<folder>/network.onnx                `recsys.serving.network`
<folder>/model.json                  what the network reads, and how its answer becomes a probability
<folder>/config.yaml                 the settings of its run, which say how files are read
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_cython_ext.extras import require
from recsys_cython_ext.manifest import DamagedFile, Manifest, OtherVersion, read_manifest
from recsys_pipelines.request.inputs import Bags
from recsys_pipelines.request.transform import MOST_SELECTIONS, BadRequest, Encoded, RequestTransform
from recsys_tables.serving import artefact
from recsys_tables.serving.artefact import Artefact, ArtefactError
from recsys_tables.serving.stacked import StackedVectors

if TYPE_CHECKING:
    from recsys_pipelines.request.frames import FrameTransform

FORMAT_VERSION = 1
MODEL, PROGRAM, REQUEST = "model.json", "network.onnx", "request"
FEATURES, SETTINGS = "features", "config.yaml"
ROWS_AT_ONCE = 4096  # that the network answers, so that memory is bounded


class ServedModel(Manifest):
    """The content of model.json: fields of `vectors` in their order, histories, and the share of negatives kept."""

    format_version: int
    name: str
    pooled: list[str]
    histories: list[str]
    negative_rate: float


class Predictor:
    """An exported model; threads may share it."""

    def __init__(self, tables: Artefact, model: ServedModel, threads: int) -> None:
        self.artefact = tables
        self.model = model
        self.transform = RequestTransform(tables.file(f"{REQUEST}/request.json").parent)
        self._session = _session(tables.file(PROGRAM), threads)
        self._inputs = [item.name for item in self._session.get_inputs()]
        self._places = {name: place for place, name in enumerate(model.pooled)}
        self._width = tables.fields[0].scheme.embedding_dim
        self._lookups: dict[tuple[str, ...], StackedVectors] = {}  # by the features that are looked up
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
        if PROGRAM not in tables.files:
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

    def predict(self, rows: Any) -> np.ndarray:
        """Return click probabilities, float64 [n], of rows as `encode` takes them; memory does not grow with their number.

        Raises BadRequest and TypeError as `encode` does.
        """
        can_be_cut = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
        if isinstance(rows, Mapping) or not can_be_cut:
            return self.score(self.encode(rows))
        parts = []
        for first in range(0, max(len(rows), 1), ROWS_AT_ONCE):
            try:
                parts.append(self.score(self.encode(rows[first : first + ROWS_AT_ONCE])))
            except BadRequest as error:
                raise error.after(first) from None
        return np.concatenate(parts)

    def encode(self, rows: Any) -> Encoded:
        """Return rows as the model reads them, and counts of what was missing or unknown; `score` takes them.

        Args:
            rows: A dict of source columns, a list of n of them, a `pyarrow.Table` or `RecordBatch`, or a
                `polars.DataFrame`. What is absent, None or NaN is missing.

        Raises:
            BadRequest: A column that no feature reads, or a value that is not what was declared.
            TypeError: `rows` are something else.
        """
        if isinstance(rows, Mapping):
            return self.transform.encode([rows])
        if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    expected = "a dict of source columns"
                    raise BadRequest(number, "row", row, expected, f"{type(row).__name__} is no dict")
            return self.transform.encode(rows)
        return self.frames.encode(rows)

    @cached_property
    def frames(self) -> "FrameTransform":
        """The transform of frames and files, which is opened when it is first asked for."""
        from recsys_pipelines.request.frames import FrameTransform, declared  # with Arrow and Polars

        folder = self.artefact.file(f"{FEATURES}/features.json").parent
        return FrameTransform(declared(folder), self.transform)

    def rank(self, context: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return click probabilities, float64 [n], of n items for one context, such as a user: columns of both are one row.

        What depends on the context alone is made once. Raises BadRequest as `predict` does.
        """
        return self.score(*self.encode_ranked(context, items)) if items else np.empty(0)

    def encode_ranked(
        self, context: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> tuple[Encoded, Encoded]:
        """Return the features that depend on the items, of n rows, and the others, of one row; `score` takes both."""
        of_items = self.transform.features_of({column for item in items for column in item})
        others = set(self.transform.features) - of_items
        return self.transform.encode(items, of_items, context), self.transform.encode([context], others)

    def vectors(self, feature: str, values: Sequence[Any]) -> np.ndarray:
        """Return the vectors, float32 [n, D], of n values of the column that a feature of ids reads."""
        return self.artefact.vectors(feature, self.transform.ids_of(feature, values))

    def score(self, encoded: Encoded, shared: Encoded | None = None) -> np.ndarray:
        """Return click probabilities, float64 [n], of encoded rows; features that all have in common may be in `shared`."""
        rows = encoded.rows
        inputs = {"dense": self._dense(encoded, shared), "vectors": self._stacked(encoded, shared)}
        for number, name in enumerate(self.model.histories):
            if shared is not None and name in shared.bags:
                padded, lengths = self._padded(name, shared.bags[name])
                padded, lengths = np.repeat(padded, rows, axis=0), np.repeat(lengths, rows)
            else:
                padded, lengths = self._padded(name, encoded.bags[name])
            inputs[f"history_{number}"], inputs[f"lengths_{number}"] = padded, lengths
        (logit,) = self._session.run(None, {name: inputs[name] for name in self._inputs})
        shifted = logit.astype(np.float64).reshape(rows) + self._shift
        return np.exp(-np.logaddexp(0.0, -shifted))

    def _dense(self, encoded: Encoded, shared: Encoded | None) -> np.ndarray:
        """Return the numbers of rows, float32 [n, k]."""
        if shared is None or not shared.numbers:
            return encoded.dense
        dense = np.empty((encoded.rows, len(encoded.numbers) + len(shared.numbers)), np.float32)
        own = np.isin(self.transform.numbers, encoded.numbers)
        dense[:, own], dense[:, ~own] = encoded.dense, shared.dense
        return dense

    def _stacked(self, encoded: Encoded, shared: Encoded | None) -> np.ndarray:
        """Return the vectors of rows, float32 [n, F, D]."""
        out = self._looked_up(encoded)
        if shared is not None:
            places = [self._places[name] for name in (*shared.singles, *shared.bags) if name in self._places]
            out[:, places] = self._looked_up(shared)[:, places]
        return out

    def _looked_up(self, encoded: Encoded) -> np.ndarray:
        """Return the vectors of the features that were encoded, in float32 [n, F, D]; the others are not set."""
        out = np.empty((encoded.rows, len(self._places), self._width), np.float32)
        if encoded.singles:
            lookup = self._lookups.get(encoded.singles)
            if lookup is None:
                if len(self._lookups) >= MOST_SELECTIONS:  # requests choose them, so there is a limit
                    self._lookups.clear()
                places = [self._places[name] for name in encoded.singles]
                width = len(self._places) * self._width
                lookup = StackedVectors(self.artefact, encoded.singles, places, width)
                self._lookups[encoded.singles] = lookup
            lookup.into(encoded.ids, out.reshape(encoded.rows, len(self._places) * self._width))
        for name, bags in encoded.bags.items():
            if name in self._places:
                pooled = self.artefact.pooled(name, bags.values, bags.offsets, bags.weights)
                out[:, self._places[name]] = pooled
        return out

    def _padded(self, name: str, bags: Bags) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of histories, float32 [n, longest, D], zeros behind their ends, and lengths int64 [n]."""
        lengths = np.diff(bags.offsets)
        vectors = self.artefact.vectors(name, bags.values)
        if bags.weights is not None:
            vectors = vectors * bags.weights[:, None]
        padded = np.zeros((len(lengths), max(1, int(lengths.max(initial=0))), vectors.shape[1]), np.float32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = vectors
        return padded, lengths


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
