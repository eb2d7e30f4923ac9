"""A finished run is exported as an artefact, and scored through: its tables without torch, its network with.

<out>/manifest.json, tables/, projections/, remaps/, codes/     see `recsys_tables.serving.artefact`
<out>/features/            the run's fitted features
<out>/request/             the same, as requests are read
<out>/model.json, network.onnx   what `recsys.serving.predictor` answers with
<out>/config.yaml          the run's settings
<out>/README.md            the model card
<out>/network.safetensors  parameters of the network above the tables
"""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchrec import JaggedTensor

from recsys.config import ExperimentConfig
from recsys.config.models import targets_of
from recsys.evaluation.metrics import evaluate, recalibrate
from recsys.models import InBfloat16, build
from recsys.planning import fields_of, plan_of
from recsys.serving.card import CARD, model_card
from recsys.serving.exported import settings_of
from recsys.serving.network import can_write_network, write_network
from recsys.serving.predictor import FEATURES, MODEL, PROGRAM, REQUEST, SETTINGS, ServedModel
from recsys.serving.predictor import FORMAT_VERSION as SERVED_VERSION
from recsys.training.run import FEATURES as RUN_FEATURES
from recsys.training.run import NETWORK, Run, combine_parameters
from recsys.training.run import SETTINGS as RUN_SETTINGS
from recsys_cython_ext.files import lock_of, locked
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.request.transform import RequestTransform
from recsys_pipelines.request.write import write_request
from recsys_tables.bytes import ResidentBytes
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.serving import artefact
from recsys_tables.serving.artefact import Artefact, ArtefactError
from recsys_tables.serving.quantise import Dtype
from recsys_tables.serving.write import write

_INNER = "network."  # of a network that was trained in bfloat16


def export(run: Run, out: str | Path, dtype: Dtype, width: int | None = None) -> Artefact:
    """Write a run's tables in `dtype`, rows wider than `width` narrowed by PCA, and all that scoring needs, as `out`.

    The same export again is opened as it is. Raises ArtefactError where `out` holds something else, and as
    `recsys_tables.serving.write.write` does; CheckpointError where the run's checkpoint is damaged or not its own.
    """
    saved = run.checkpoint()
    about = {
        "name": run.config.name,
        "checkpoint": run.checkpoint_digest,
        "dtype": dtype,
        "pca_width": width,
    }
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(out)):
        return _same(out, about) if out.exists() else _write(run, saved, out, dtype, width, about)


def _write(
    run: Run, saved: Checkpoint, out: Path, dtype: Dtype, width: int | None, about: Mapping[str, Any]
) -> Artefact:
    features = run.features()
    plan = plan_of(run.config, features)

    def add(partial: Path, counted: ResidentBytes) -> None:
        shutil.copytree(run.path / RUN_FEATURES, partial / FEATURES)
        shutil.copyfile(run.path / RUN_SETTINGS, partial / SETTINGS)
        names = [name for name in saved.names if name.startswith(NETWORK)]
        tensors = {name.removeprefix(NETWORK): saved.read(name) for name in names}
        save_file(tensors, partial / "network.safetensors")
        _write_served(run.config, features, tensors, partial)
        inputs = RequestTransform(partial / REQUEST).inputs
        card = model_card(run, inputs, counted, about, servable=(partial / PROGRAM).exists())
        (partial / CARD).write_text(card, encoding="utf-8")

    return write(
        out,
        fields_of(plan, features, targets_of(run.config.model)),
        lambda name: saved.read(f"table/{name}").numpy(),
        dtype,
        width,
        vocabulary_bytes=plan.bytes.vocabulary,
        statistics_bytes=plan.bytes.statistics,
        parameters=functools.partial(combine_parameters, saved),
        about=about,
        add=add,
    )


def _write_served(
    config: ExperimentConfig, features: Features, parameters: Mapping[str, Tensor], partial: Path
) -> None:
    """Write what a `Predictor` opens; without the packages that write it, its network is left out."""
    histories = list(targets_of(config.model))
    pooled = [feature.name for feature in features.categorical if feature.name not in histories]
    write_request(features, partial / REQUEST)
    model = ServedModel(
        format_version=SERVED_VERSION,
        name=config.name,
        pooled=pooled,
        histories=histories,
        negative_rate=config.training.negative_rate,
    )
    write_manifest(model, partial / MODEL)
    if can_write_network():
        dense, width = len(features.numeric_columns), config.tables.embedding_dim
        network = build(config.model, dense, pooled, width)
        network.load_state_dict({name.removeprefix(_INNER): value for name, value in parameters.items()})
        write_network(network, dense, len(pooled), width, partial / PROGRAM)


def _same(out: Path, about: dict[str, Any]) -> Artefact:
    """Return the artefact that stands there. Raises ArtefactError where it is another export."""
    exported = artefact.open(out)
    for name, value in about.items():
        if (other := exported.about.get(name)) != value:
            raise ArtefactError(
                f"{out}: exists already and is another export: its {name} is {other!r}, and {value!r} was asked for; "
                "export under another name"
            )
    return exported


class ArtefactScorer:
    """A model restored from a folder that `export` wrote. Raises ArtefactError as `artefact.open` does."""

    def __init__(self, folder: str | Path) -> None:
        self.artefact = artefact.open(folder)
        self.features = Features.load(self.artefact.file(f"{FEATURES}/features.json").parent)
        self.config = settings_of(self.artefact)
        pooled = [field for field in self.artefact.fields if field.pooling != "none"]
        network = build(
            self.config.model,
            len(self.features.numeric_columns),
            [field.feature for field in pooled],
            self.artefact.fields[0].scheme.embedding_dim,
        )
        if self.config.training.precision == "bf16":
            network = InBfloat16(network)
        network.load_state_dict(load_file(self.artefact.file("network.safetensors")))
        self._network = network.eval()
        self._pooled = [field.feature for field in pooled]
        self._histories = list(targets_of(self.config.model))

    @torch.no_grad()
    def score(self, rows: Rows) -> np.ndarray:
        """Return click probabilities, float64 [n], in order, recalibrated for negative down-sampling."""
        out = np.zeros(len(rows))
        size = self.config.evaluation.batch_size
        for first in range(0, len(rows), size):
            part = np.arange(first, min(first + size, len(rows)))
            batch = rows.batch(part)
            bags = {name: batch.ids[name] for name in [*self._pooled, *self._histories]}
            vectors = torch.stack([self._vector(name, bags[name]) for name in self._pooled], dim=1)
            sequences = [self._sequence(name, bags[name]) for name in self._histories]
            out[part] = torch.sigmoid(self._network(batch.dense, vectors, *sequences).double()).numpy()
        return recalibrate(out, self.config.training.negative_rate)

    def _vector(self, feature: str, bags: JaggedTensor) -> Tensor:
        """Return the vectors of a pooled feature, [B, D]."""
        offsets = bags.offsets().to(torch.int64).numpy()
        vectors = self.artefact.pooled(feature, bags.values().numpy(), offsets, self._weights(feature, bags))
        return torch.from_numpy(vectors)

    def _sequence(self, feature: str, bags: JaggedTensor) -> JaggedTensor:
        """Return the vectors of a history, one for each of its ids."""
        vectors = self.artefact.vectors(feature, bags.values().numpy())
        if (weights := self._weights(feature, bags)) is not None:
            vectors = vectors * weights[:, None]
        return JaggedTensor(torch.from_numpy(vectors), lengths=bags.lengths())

    def _weights(self, feature: str, bags: JaggedTensor) -> np.ndarray | None:
        return bags.weights().float().numpy() if self.artefact.field(feature).weighted else None


def check(run: Run, folder: str | Path) -> dict[str, Any]:
    """Measure the run's test rows, scored through an artefact; the metrics of the run itself are in its folder."""
    rows = run.rows("test")
    return evaluate(rows.label, ArtefactScorer(folder).score(rows), groups=rows.user)


def file_bytes(folder: str | Path) -> int:
    """Count the bytes on disk of everything in a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
