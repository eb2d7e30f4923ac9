"""A bit that flips in any file of a run, a prepared set or an artefact: refused in a sentence, or without effect."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.serving.export import ArtefactScorer, export
from recsys.serving.scoring import Scorer
from recsys.training.distributed import process_group
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared

Numbers = dict[str, Any]
ROWS = np.arange(40)  # scored each time


def of_run(folder: Path, rows: Rows) -> Numbers:
    """Everything that a command reads of a finished run."""
    run = Run.open(folder)
    with process_group():
        scores = Scorer(run).score(rows)
    return {
        "metrics": run.metrics,
        "config": run.config,
        "predictions": run.predictions().to_pydict(),
        "scores": scores.tolist(),
    }


def of_prepared(folder: Path, rows: Rows) -> Numbers:
    """Everything that is read of a prepared set."""
    prepared = Prepared.open(folder)
    parts = {split: Rows.load(folder, split) for split in ("train", "validation", "test")}
    return {
        "rows": prepared.manifest.row_counts_by_split,
        "features": prepared.manifest.features,
        "counts": [(name, array.tolist()) for name, array in prepared.counts().arrays()],
        "vocabularies": [getattr(f, "ids", np.empty(0)).tolist() for f in prepared.features().features],
        **{split: part.table.to_pydict() for split, part in parts.items()},
    }


def of_artefact(folder: Path, rows: Rows) -> Numbers:
    """Everything that is read of an artefact."""
    scorer = ArtefactScorer(folder)
    return {"scores": scorer.score(rows).tolist(), "bytes": scorer.artefact.bytes, "config": scorer.config}


def flips(folder: Path, count: int, seed: int) -> list[tuple[Path, int, int]]:
    """File, byte and bit of `count` places; as many of each file, but for rounding."""
    random = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.stat().st_size)
    chosen = [files[n % len(files)] for n in range(count)]
    return [(file, int(random.integers(file.stat().st_size)), int(random.integers(8))) for file in chosen]


def outcomes(
    folder: Path, read: Callable[[Path, Rows], Numbers], rows: Rows, count: int, seed: int
) -> Counter[str]:
    """How many flips were refused in one sentence, changed nothing, or changed a number in silence (by file)."""
    whole = read(folder, rows)
    found: Counter[str] = Counter()
    for file, place, bit in flips(folder, count, seed):
        content = file.read_bytes()
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        try:
            same = read(folder, rows) == whole
            found["unchanged" if same else f"silent: {file.name}"] += 1
        except (ValueError, OSError) as error:
            found["refused" if "\n" not in str(error) else f"in lines: {file.name}"] += 1
        finally:
            file.write_bytes(content)
    assert read(folder, rows) == whole
    return found


@pytest.fixture(scope="module")
def copies(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, its prepared set and its artefact, to be damaged."""
    root = tmp_path_factory.mktemp("copies")
    export(run, root / "of_artefact", "fp32")
    shutil.copytree(run.metrics["prepared"], root / "of_prepared")
    shutil.copytree(run.path, root / "of_run")
    return {name: root / name for name in ("of_run", "of_prepared", "of_artefact")}


@pytest.fixture(scope="module")
def rows(run: Run) -> Rows:
    whole = Rows.load(run.metrics["prepared"], "test")
    return Rows.from_table(whole.features, whole.table.take(ROWS))


READERS = (of_run, of_prepared, of_artefact)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("count", [14, pytest.param(70, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_a_number_in_silence(
    copies: dict[str, Path], rows: Rows, read: Callable[[Path, Rows], Numbers], count: int
) -> None:
    found = outcomes(copies[read.__name__], read, rows, count, seed=count)
    print(dict(found))
    assert found.keys() <= {"refused", "unchanged"}
    assert found["refused"] > found["unchanged"]


def test_what_is_said_of_a_damaged_file_names_it(copies: dict[str, Path], rows: Rows, tmp_path: Path) -> None:
    for name, read, file in (
        ("of_run", of_run, "predictions.parquet"),
        ("of_run", of_run, "config.yaml"),
        ("of_run", of_run, "features/arrays.npz"),
        ("of_prepared", of_prepared, "features/counts.npz"),
        ("of_artefact", of_artefact, "network.safetensors"),
    ):
        folder = tmp_path / file.replace("/", "-")
        shutil.copytree(copies[name], folder)
        content = bytearray((folder / file).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / file).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{folder / file}: .*damaged"):
            read(folder, rows)
