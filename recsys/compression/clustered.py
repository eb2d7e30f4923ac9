"""Clustered students begin as what post-training quantisation leaves of a teacher: centroids of its rows, and its network.

Validation rows judge the beginning too, so what training does not improve stays as it began.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from recsys.compression.codes import Array, TrainedIds
from recsys.compression.students import LearnedCodes, coded_student
from recsys.config import ConfigError, ExperimentConfig, TeacherConfig
from recsys.training.run import NETWORK, Run
from recsys_cython_ext.files import is_sealed, new_path, seal
from recsys_tables import Coded
from recsys_tables.codes import Codes

CHUNKS = 2  # of a vector, where its width allows: a product quantisation without training is better than one cluster an id


def like_teacher(config: ExperimentConfig, teacher: Run) -> ExperimentConfig:
    """Return the experiment of full tables with a teacher's width, and with codes of as few ids and chunks as suit it.

    Raises ConfigError where a student cannot begin with the teacher's network.
    """
    names = tuple([name for f in c.features for name in f.names] for c in (teacher.config, config))
    for key, (of_teacher, of_student) in {
        "model": (teacher.config.model, config.model),
        "the list of features": names,
    }.items():
        if of_teacher != of_student:
            raise ConfigError(
                f"{config.name}: a clustered student begins with its teacher's network, and {teacher.path} has another: "
                f"{key} differs: make it the same, or take --into coded"
            )
    width, students = teacher.config.tables.embedding_dim, config.compression.students
    return config.replace(
        {
            "tables.embedding_dim": width,
            "compression.students.chunks": students.chunks or (1 if width % CHUNKS else CHUNKS),
            "compression.students.min_counts": [min(students.min_counts)],
        },
        where=config.name,
    )


def clustered_student(
    config: ExperimentConfig, budget: str, learned: LearnedCodes, start: Path, teacher: TeacherConfig | None
) -> ExperimentConfig:
    """Return the student that begins with the weights in `start`: `config` is of full tables and has its means already."""
    student = coded_student(config, budget, [learned], teacher)
    named = {"name": f"{config.name}-clustered", "training.start": str(start)}
    return student.replace(named, where=student.name)


def write_start(learned: LearnedCodes, trained: TrainedIds, teachers: Sequence[Run], number: int) -> Path:
    """Write the weights to begin with, of teacher `number`, beside the codes, and return the file; one there is taken."""
    teacher = teachers[number]
    file = learned.folder.with_name(f"{learned.folder.name}-start-{teacher.checkpoint_digest}.safetensors")
    if is_sealed(file):
        return file
    codes, saved = Codes.open(learned.folder), teacher.checkpoint()
    scheme = Coded(next(iter(codes.features)), codes, teacher.config.tables.embedding_dim)
    rows = centroids(codes, trained.seen(learned.min_count), number)
    tensors = {name: saved.read(name) for name in saved.names if name.startswith(NETWORK)}
    tensors |= {
        f"table/{table.name}": torch.from_numpy(part)
        for table, part in zip(scheme.tables(), rows, strict=True)
    }
    with new_path(file) as partial:
        save_file(tensors, partial)
    seal(file)
    return file


def centroids(codes: Codes, trained: TrainedIds, number: int) -> list[Array]:
    """Return the rows of each chunk's table, float32 [num_rows, width]: means of the rows of teacher `number`.

    Ids are weighted by their impressions; a row that no id reads is 0, and so is that of ids without codes.
    """
    vectors = np.concatenate(list(trained.vectors.values()))[:, number]
    weights = np.concatenate(list(trained.impressions.values())).astype(np.float64)
    of_feature = [codes.rows(ids, name) for name, ids in trained.ids.items()]
    width = vectors.shape[1] // codes.num_chunks
    tables = []
    for chunk in range(codes.num_chunks):
        rows = np.concatenate([part[chunk] for part in of_feature])
        part = vectors[:, chunk * width : (chunk + 1) * width]
        sums = np.zeros((codes.num_rows, width))
        np.add.at(sums, rows, part * weights[:, None])
        total = np.bincount(rows, weights, codes.num_rows)
        tables.append((sums / np.maximum(total, 1)[:, None]).astype(np.float32))
    return tables
