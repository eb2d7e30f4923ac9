"""Checkpoints whose manifest is sealed and yet does not describe a whole model: refused, not loaded in part."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recsys_cython_ext.manifest import write_manifest
from recsys_tables import Full, Hash
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import (
    CheckpointError,
    CheckpointManifest,
    SavedPiece,
    covers,
    read_checkpoint_manifest,
)
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import TableOptimizer, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field

NAME = "table/user/full"


class Model(torch.nn.Module):
    """Two tables and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        fields = [Field(scheme, multivalued=False) for scheme in (Full("user", 12, 8), Hash("item", 7, 4))]
        self.engine = EmbeddingEngine(fields, torch.device("meta"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        save(tmp_path / "saved", shard(Model(), TableOptimizer("adagrad"), torch.device("cpu"), 0), {})
    finally:
        dist.destroy_process_group()
    return tmp_path / "saved"


def resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest, with a checksum that is right."""
    manifest = read_checkpoint_manifest(folder).model_dump(mode="json")
    change(manifest)
    write_manifest(CheckpointManifest.model_validate_json(json.dumps(manifest)), folder / "manifest.json")


def piece_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (piece,) = (piece for piece in manifest["files"][0]["pieces"] if piece["name"] == NAME)
    return piece


def missing(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"].remove(piece_of(manifest))


def missing_everywhere(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"] = []


def twice(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"].append(dict(piece_of(manifest)))


def overlapping(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"].append({**piece_of(manifest), "first_row": 6})
    manifest["shapes"][NAME] = [18, 8]


def gap(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"].append({**piece_of(manifest), "first_row": 13})
    manifest["shapes"][NAME] = [25, 8]


def late(manifest: dict[str, Any]) -> None:
    piece_of(manifest)["first_row"] = 2
    manifest["shapes"][NAME] = [14, 8]


def gap_of_columns(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["pieces"].append({**piece_of(manifest), "first_column": 12})
    manifest["shapes"][NAME] = [12, 20]


def taller(manifest: dict[str, Any]) -> None:
    piece_of(manifest)["shape"] = [13, 8]
    manifest["shapes"][NAME] = [13, 8]


def wider(manifest: dict[str, Any]) -> None:
    piece_of(manifest).update(columns=12, shape=[12, 12])
    manifest["shapes"][NAME] = [12, 12]


def narrower(manifest: dict[str, Any]) -> None:
    piece_of(manifest)["columns"] = 4
    manifest["shapes"][NAME] = [12, 4]


def other_whole(manifest: dict[str, Any]) -> None:
    manifest["shapes"][NAME] = [24, 8]


def no_tensor(manifest: dict[str, Any]) -> None:
    piece_of(manifest)["key"] = "99"


CHANGES = (
    *(missing, missing_everywhere, twice, overlapping, gap, late, gap_of_columns),
    *(taller, wider, narrower, other_whole, no_tensor),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_pieces_that_do_not_make_up_a_table_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    resealed(folder, lambda manifest: None)
    Checkpoint(str(folder))
    resealed(folder, change)
    with pytest.raises(CheckpointError, match=rf"{folder}/.*: damaged.*; train again"):
        Checkpoint(folder)


def piece(top: int, rows: int, left: int = 0, columns: int = 8) -> SavedPiece:
    return SavedPiece(
        name=NAME,
        key="0",
        shape=[rows, columns],
        dtype="torch.float32",
        first_row=top,
        first_column=left,
        columns=columns,
    )


@pytest.mark.parametrize(
    ("pieces", "is_whole"),
    [
        ([piece(0, 12)], True),
        ([piece(6, 6), piece(0, 6)], True),
        ([piece(0, 12, 0, 4), piece(0, 12, 4, 4)], True),
        ([piece(0, 5, 0, 4), piece(5, 7, 0, 4), piece(0, 12, 4, 4)], True),
        ([piece(0, 6)], False),
        ([piece(0, 6), piece(7, 5)], False),
        ([piece(0, 7), piece(6, 6)], False),
        ([piece(0, 12, 0, 4), piece(0, 6, 4, 4)], False),
        ([piece(0, 12, 4, 4)], False),
        ([piece(0, 12, 0, 4), piece(0, 12, 0, 8)], False),
    ],
)
def test_rows_and_columns_are_covered_once(pieces: list[SavedPiece], is_whole: bool) -> None:
    assert covers(pieces, [12, 8]) == is_whole
