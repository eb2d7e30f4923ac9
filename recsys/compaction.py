"""From what a learner found to compact tables: the space of genomes of an experiment, and a genome as a configuration."""

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from recsys.config import ConfigError, ExperimentConfig, parse
from recsys.model_config import targets_of
from recsys.search_space import Genome, Learned, SearchSpace
from recsys.supernet import NETWORK
from recsys.training.run import Run
from recsys_pipelines.config import CategoricalConfig
from recsys_pipelines.features import Features
from recsys_pipelines.features.categorical import FIRST_CODE, Categorical
from recsys_tables.checkpoint import Checkpoint
from recsys_tables.schemes import Full, compact_from

INIT = "tables.init_bound"  # of a search over settings that is of compact tables too


def space_of(config: ExperimentConfig, features: Features, learned: Learned) -> SearchSpace:
    """The compact models of an experiment of full tables, given what a learner left of them.

    Ids of crosses, words, parts of dates and fixed vocabularies stay; only widths of such fields are searched.
    Raises ConfigError for a sequence with tables of its own that is `like` another feature, whose vocabulary it follows.
    """
    readers = targets_of(config.model)
    prunable = _prunable(config)
    for declared in config.features:
        like = getattr(declared, "like", None)
        if like is not None and (lone := [name for name in declared.names if name not in readers]):
            raise ConfigError(
                f"{config.name}: feature {lone[0]!r} is like {like!r}, but has a table of its own: a search cannot keep "
                "other ids for it. Declare it without `like`, or take a model that reads the same table"
            )
    own = [feature for feature in features.categorical if feature.name not in readers]
    return SearchSpace(
        features=tuple(feature.name for feature in own),
        num_codes={feature.name: len(learned.score[feature.name]) for feature in own},
        scores=learned.score,
        embedding_dim=config.tables.embedding_dim,
        widths=learned.widths,
        optimizer=config.training.table_optimizer,
        whole={f.name: f.vocabulary_bytes for f in own if f.name not in prunable},
        histories={name: list(readers.values()).count(name) for name in set(readers.values())},
    )


def compact_config(
    config: ExperimentConfig,
    name: str,
    run: Run,
    learned: Learned,
    space: SearchSpace,
    genome: Genome,
    folder: Path,
) -> ExperimentConfig:
    """A genome as an experiment called `name`: its file, and beside it the ids it keeps and weights to start from.

    <folder>/<name>.yaml            the experiment, which `recsys train` takes
    <folder>/<name>/<feature>.npy   ids that keep a row
    <folder>/<name>.safetensors     the learner's weights of the kept rows and columns, and its network

    Training starts from these weights where `shrink.weights` is "inherited". What exists is written anew.
    """
    ids, start, file = folder / name, folder / f"{name}.safetensors", folder / f"{name}.yaml"
    keep = space.keep(genome)
    features = Features.load(run.path / "features")
    shutil.rmtree(ids, ignore_errors=True)
    ids.mkdir(parents=True)
    prunable = _prunable(config)
    for feature in features.categorical:
        if isinstance(feature, Categorical) and feature.name in prunable & keep.keys():
            np.save(ids / f"{feature.name}.npy", feature.ids[keep[feature.name][FIRST_CODE:]])
    _save_start(start, run, learned, space, genome)
    raw = config.model_dump(mode="json", exclude_unset=True)
    for declared in raw["features"]:
        if declared["kind"] == "categorical" and set(declared["names"]) <= prunable:
            declared["keep"] = str(ids.resolve())
    old = config.tables
    raw["tables"] = {
        "scheme": "compact",
        "embedding_dim": old.embedding_dim,
        "init_bound": old.init_bound,
        "budget_embedding_dim": old.budget_embedding_dim,
        "widths": dict(zip(space.features, genome.widths, strict=True)),
    }
    raw["name"] = name
    space_of_trials = raw.get("search", {}).get("space", {})  # of what a genome has not fixed
    for key in [key for key in space_of_trials if key.startswith(("tables.", "features.")) and key != INIT]:
        del space_of_trials[key]
    if config.shrink.weights == "inherited":
        raw.setdefault("training", {})["start"] = str(start.resolve())
    found = parse(raw, str(file))
    partial = file.with_suffix(".tmp")
    partial.write_text(yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=110))
    partial.replace(file)
    return found


def _save_start(path: Path, run: Run, learned: Learned, space: SearchSpace, genome: Genome) -> None:
    """Tables under the genome's masks, and the learner's network."""
    schemes = [Full(name, space.num_codes[name], space.embedding_dim) for name in space.features]
    keep, widths = space.keep(genome), dict(zip(space.features, genome.widths, strict=True))
    weights = {f"{name}/full": learned.masked(name, keep[name], widths[name]) for name in space.features}
    _, tables = compact_from(schemes, weights, keep, widths)
    saved = Checkpoint(run.path / "checkpoint")
    tensors = {name: saved.read(name) for name in saved.names if name.startswith(NETWORK)}
    tensors |= {f"table/{name}": torch.from_numpy(np.ascontiguousarray(t)) for name, t in tables.items()}
    partial = path.with_suffix(".tmp")
    save_file(tensors, partial)
    partial.replace(path)


def _prunable(config: ExperimentConfig) -> set[str]:
    """Features whose ids can leave the vocabulary."""
    return {
        name
        for declared in config.features
        if isinstance(declared, CategoricalConfig) and declared.vocabulary is None
        for name in declared.names
    }
