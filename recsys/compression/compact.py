"""A learner's result becomes a space of genomes, and a genome the configuration of compact tables."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from recsys.compression.space import Genome, GenomeSpace, Learned
from recsys.config import ConfigError, ExperimentConfig
from recsys.config.models import targets_of
from recsys.planning import statistics_bytes
from recsys.training.run import NETWORK, Run
from recsys_cython_ext.files import (
    digest,
    is_sealed,
    lock_of,
    locked,
    new_folder,
    seal,
    text_digest,
)
from recsys_cython_ext.vocabulary import FIRST_CODE
from recsys_pipelines.config import (
    CategoricalConfig,
    CrossConfig,
    FeatureConfig,
    PrefixesConfig,
    TokensConfig,
)
from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT
from recsys_pipelines.features import Features, kept_ids, write_kept_ids
from recsys_pipelines.features.categorical import Categorical
from recsys_pipelines.sources import SourceError
from recsys_tables.schemes.compact import compact_from
from recsys_tables.schemes.full import Full

EXPERIMENT, IDS, START = "experiment.yaml", "ids", "start.safetensors"
FORMAT_VERSION = 2  # of an experiment's folder
INIT = "tables.init_bound"  # of a search over settings that is of compact tables too


def space_of(config: ExperimentConfig, features: Features, learned: Learned) -> GenomeSpace:
    """Return the space of compact models of an experiment of full tables, given what a learner left of them.

    Parts of dates, buckets, and ids of fixed vocabularies and of sequences stay; only widths of such fields are searched.
    Raises ConfigError for a sequence with tables of its own that is `like` another feature, whose vocabulary it follows,
    and for a vocabulary of fingerprints, which does not keep the ids that a compact experiment names.
    """
    readers = targets_of(config.model)
    prunable = _prunable(config)
    for feature in features.categorical:
        if feature.form == FINGERPRINT and feature.name in prunable:
            raise ConfigError(
                f"{config.name}: feature {feature.name!r}: `form: fingerprint` keeps no ids, and a search writes down "
                "those that keep a row: search with `form: exact`, and say `compression.form: fingerprint`"
            )
    for declared in config.features:
        like = getattr(declared, "like", None)
        if like is not None and (lone := [name for name in declared.names if name not in readers]):
            raise ConfigError(
                f"{config.name}: feature {lone[0]!r} is like {like!r}, but has a table of its own: a search cannot keep "
                "other ids for it. Declare it without `like`, or take a model that reads the same table"
            )
    searched = [feature for feature in features.categorical if feature.name not in readers]
    return GenomeSpace(
        features=tuple(feature.name for feature in searched),
        num_codes={feature.name: len(learned.score[feature.name]) for feature in searched},
        scores=learned.score,
        embedding_dim=config.tables.embedding_dim,
        widths=learned.widths,
        optimizer=config.training.table_optimizer,
        whole={f.name: f.vocabulary_bytes for f in searched if f.name not in prunable},
        statistics=statistics_bytes(features),
        precision=config.compression.precision,
        form=config.compression.form,
    )


def write_compact(
    config: ExperimentConfig,
    name: str,
    run: Run,
    learned: Learned,
    space: GenomeSpace,
    genome: Genome,
    folder: str | Path,
) -> Path:
    """Write a genome as an experiment called `name`, and return its file, which `recsys train` takes.

    <folder>/<name>-<digest>/experiment.yaml
                             ids/                 ids that keep a row (`recsys_pipelines.features.kept`)
                             start.safetensors    the learner's weights of the kept rows and columns, and its network

    Training starts from these weights where `compression.weights` is "inherited". The folder is named by what it holds, and
    one that is whole is left as it is; what is missing or damaged is written again. Files outside ids/ have checksums
    beside them. Raises ConfigError where another experiment stands there.
    """
    raw = _raw_of(config, name, space, genome)
    keep = space.keep(genome)
    masks = {feature: digest(mask.tobytes()) for feature, mask in keep.items()}
    contents = [FORMAT_VERSION, raw, masks, run.checkpoint_digest]
    out = Path(folder) / f"{name}-{text_digest(json.dumps(contents, sort_keys=True))}"
    out.parent.mkdir(parents=True, exist_ok=True)
    ids = {
        feature.name: feature.ids[keep[feature.name][FIRST_CODE:]]
        for feature in run.features().categorical
        if isinstance(feature, Categorical) and feature.name in _prunable(config) & keep.keys()
    }
    with locked(lock_of(out)):
        if out.exists() and not _is_whole(out, ids):
            shutil.rmtree(out)
        if not out.exists():
            with new_folder(out) as partial:
                write_kept_ids(ids, partial / IDS)
                _save_start(partial / START, run, learned, space, genome)
                text = yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=110)
                (partial / EXPERIMENT).write_text(text, encoding="utf-8")
                for name in (EXPERIMENT, START):
                    seal(partial / name)
    return out / EXPERIMENT


def _is_whole(out: Path, ids: Mapping[str, np.ndarray]) -> bool:
    """Tell whether nothing is missing or damaged. Raises ConfigError where the experiment is another one by now."""
    file = out / EXPERIMENT
    if file.exists() and not is_sealed(file):
        raise ConfigError(
            f"{file}: changed or damaged since it was written (its checksum is wrong): move the folder away if you want "
            "it, and the same command writes it again"
        )
    try:
        same_ids = all(
            np.array_equal(kept_ids(out / IDS, feature), values) for feature, values in ids.items()
        )
    except SourceError:
        return False
    return same_ids and is_sealed(file) and is_sealed(out / START)


def _raw_of(config: ExperimentConfig, name: str, space: GenomeSpace, genome: Genome) -> dict[str, Any]:
    """Return the experiment of a genome as plain values; its files are beside it."""
    raw = config.model_dump(mode="json", exclude_unset=True)
    prunable = _prunable(config)
    for declared, feature in zip(raw["features"], config.features, strict=True):
        if set(feature.names) <= prunable:
            declared["keep"] = IDS
            if space.form != EXACT:
                declared["form"] = space.form
    old = config.tables
    raw["tables"] = {
        "scheme": "compact",
        "embedding_dim": old.embedding_dim,
        "init_bound": old.init_bound,
        "budget_embedding_dim": old.budget_embedding_dim,
        "widths": dict(zip(space.features, genome.widths, strict=True)),
    }
    if space.precision != "fp32":
        raw["tables"]["precision"] = space.precision
    raw["name"] = name
    space_of_trials = raw.get("tuning", {}).get("space", {})  # of what a genome has not fixed
    for key in [key for key in space_of_trials if key.startswith(("tables.", "features.")) and key != INIT]:
        del space_of_trials[key]
    training = raw.setdefault("training", {})
    training.pop("start", None)  # of full tables
    if config.compression.weights == "inherited":
        training["start"] = START
    return raw


def _save_start(path: Path, run: Run, learned: Learned, space: GenomeSpace, genome: Genome) -> None:
    """Write the tables under the genome's masks, and the learner's network."""
    schemes = [Full(name, space.num_codes[name], space.embedding_dim) for name in space.features]
    keep, widths = space.keep(genome), dict(zip(space.features, genome.widths, strict=True))
    weights = {f"{name}/full": learned.masked(name, keep[name], widths[name]) for name in space.features}
    _, tables = compact_from(schemes, weights, keep, widths)
    saved = run.checkpoint()
    tensors = {name: saved.read(name) for name in saved.names if name.startswith(NETWORK)}
    tensors |= {f"table/{name}": torch.from_numpy(np.ascontiguousarray(t)) for name, t in tables.items()}
    save_file(tensors, path)


def _prunable(config: ExperimentConfig) -> set[str]:
    """Return the features whose ids can leave the vocabulary."""
    return {name for declared in config.features if _can_keep(declared) for name in declared.names}


def _can_keep(declared: FeatureConfig) -> bool:
    """Tell whether a feature's declaration takes `keep`."""
    if isinstance(declared, CategoricalConfig) and declared.vocabulary is not None:
        return False
    return isinstance(declared, CategoricalConfig | CrossConfig | TokensConfig | PrefixesConfig) and (
        declared.encoding,
        declared.unknown,
    ) == ("vocabulary", "code")
