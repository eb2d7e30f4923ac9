"""The writer of artefacts: one table at a time, into a folder that appears when it is whole."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys_cython_ext import HASH_VERSION
from recsys_cython_ext.files import file_digest, new_folder
from recsys_cython_ext.manifest import write_manifest
from recsys_tables.bytes import ResidentBytes, map_bytes
from recsys_tables.codes import Codes
from recsys_tables.field import Field
from recsys_tables.remap import Remap
from recsys_tables.scheme import NO_PARAMETERS, Parameters, Scheme, describe, unique_tables
from recsys_tables.serving.artefact import (
    FIELD_OPTIONS,
    FORMAT_VERSION,
    MANIFEST,
    Artefact,
    ArtefactError,
    ArtefactManifest,
    StoredField,
    StoredFile,
    StoredRemap,
    StoredTableEntry,
)
from recsys_tables.serving.artefact import open as open_artefact
from recsys_tables.serving.quantise import Dtype, compress


def write(
    folder: Path,
    fields: Sequence[Field],
    read: Callable[[str], np.ndarray],
    dtype: Dtype,
    width: int | None = None,
    *,
    vocabulary_bytes: int = 0,
    statistics_bytes: int = 0,
    parameters: Callable[[int], Parameters] = lambda number: NO_PARAMETERS,
    about: Mapping[str, Any] | None = None,
    add: Callable[[Path, ResidentBytes], None] = lambda partial, counted: None,
) -> Artefact:
    """Write an artefact and open it.

    Args:
        folder: the artefact's, which must not exist yet.
        fields: of the model, in its order.
        read: float32 weights [num_embeddings, embedding_dim] of a physical table, by name; asked for one at a time.
        dtype: the rows' as they are stored.
        width: rows of wider tables are narrowed to by PCA.
        vocabulary_bytes: resident bytes of id -> code tables, to be counted.
        statistics_bytes: of id -> number tables.
        parameters: of a field's `combine`, by its number: float32 arrays by name.
        about: JSON-able, for whoever opens it.
        add: writes further files into the folder it is given, beside the bytes that were counted; they get checksums like
            the rest.

    Raises ArtefactError where the folder exists, for a scheme that cannot be served without torch, and naming the
    table whose values the dtype cannot hold; OSError where the disk is full. Nothing is left then.
    """
    if folder.exists():
        raise ArtefactError(f"{folder}: exists already; export under another name")
    features = {field.feature for field in fields}
    for field in fields:
        _check_servable(field.scheme, features)
    with new_folder(folder) as partial:
        for name in ("tables", "projections", "remaps"):
            (partial / name).mkdir()
        tables, stored = _write_tables(partial, fields, read, dtype, width)
        entries, combines = _write_fields(partial, fields, parameters)
        counted = (
            stored
            + map_bytes(field.scheme for field in fields)
            + combines
            + ResidentBytes(vocabulary=vocabulary_bytes, statistics=statistics_bytes)
        )
        add(partial, counted)
        manifest = ArtefactManifest(
            format_version=FORMAT_VERSION,
            hash_version=HASH_VERSION,
            dtype=dtype,
            about=dict(about or {}),
            bytes=counted.to_dict(),
            fields=entries,
            tables=tables,
            files=_stored_files(partial),
        )
        write_manifest(manifest, partial / MANIFEST)
    return open_artefact(folder, verify=False)


def _check_servable(scheme: Scheme, features: Collection[str]) -> None:
    """Raise ArtefactError unless a scheme's vectors can be made without torch, and its tables are of a field."""
    owner = scheme.owner
    if owner.feature not in features:
        raise ArtefactError(
            f"feature {scheme.feature!r}: reads the tables of feature {owner.feature!r}, which must be a field too"
        )
    if not hasattr(owner, "combine_numpy"):
        raise ArtefactError(
            f"feature {scheme.feature!r}: its {type(owner).__name__} scheme is not served: score with the run itself, or, "
            "where it has learned which rows and columns to keep, make tables of these (`recsys compress --into compact`)"
        )


def _write_tables(
    partial: Path, fields: Sequence[Field], read: Callable[[str], np.ndarray], dtype: Dtype, width: int | None
) -> tuple[list[StoredTableEntry], ResidentBytes]:
    """Write every physical table, and return where it lies and what it weighs."""
    entries, counted = [], ResidentBytes()
    for n, table in enumerate(unique_tables([field.scheme for field in fields])):
        values = read(table.name)
        if values.shape != (table.num_embeddings, table.embedding_dim):
            raise ArtefactError(
                f"table {table.name!r}: weights of shape {values.shape}, where its scheme has "
                f"{(table.num_embeddings, table.embedding_dim)}"
            )
        try:
            stored = compress(values, dtype, width)
        except ValueError as error:
            raise ArtefactError(f"table {table.name!r}: {error}") from None
        np.save(partial / f"tables/{n}.npy", stored.data)
        projection = None
        if stored.projection is not None:
            projection = f"projections/{n}.npy"
            np.save(partial / projection, stored.projection)
            counted += ResidentBytes(dense=stored.projection.nbytes)
        counted += ResidentBytes(parameters=stored.nbytes)
        entries.append(
            StoredTableEntry(
                name=table.name, file=f"tables/{n}.npy", width=stored.width, projection=projection
            )
        )
    return entries, counted


def _write_fields(
    partial: Path, fields: Sequence[Field], parameters: Callable[[int], Parameters]
) -> tuple[list[StoredField], ResidentBytes]:
    """Write what fields have beside tables, shared codes once; return their descriptions, and what parameters weigh."""
    entries, dense = [], 0
    folders: dict[Codes, str] = {}
    for n, field in enumerate(fields):
        remap, codes, code_map = None, None, field.scheme.code_map
        if isinstance(code_map, Remap):
            remap = StoredRemap(file=f"remaps/{n}.npy", num_ids=code_map.num_ids)
            np.save(partial / remap.file, code_map.words)
        elif isinstance(code_map, Codes):
            if code_map not in folders:
                folders[code_map] = f"codes/{len(folders)}"
                (partial / "codes").mkdir(exist_ok=True)
                code_map.save(partial / folders[code_map])
            codes = folders[code_map]
        options = {name: getattr(field, name) for name in FIELD_OPTIONS}
        description = describe(field.scheme)
        files = _write_parameters(partial, n, parameters(n))
        dense += sum((partial / file).stat().st_size for file in files.values())
        entries.append(
            StoredField(
                feature=field.feature,
                scheme=description,
                remap=remap,
                codes=codes,
                parameters=files,
                **options,
            )
        )
    return entries, ResidentBytes(dense=dense)


def _write_parameters(partial: Path, field: int, parameters: Parameters) -> dict[str, str]:
    """Write the parameters of a field's `combine`, and return their files by name."""
    files = {name: f"combine/{field}.{name}.npy" for name in parameters}
    for name, values in parameters.items():
        (partial / "combine").mkdir(exist_ok=True)
        np.save(partial / files[name], values)
    return files


def _stored_files(partial: Path) -> dict[str, StoredFile]:
    """Return sizes and checksums of all files in a folder, by their paths below it."""
    files = sorted(file for file in partial.rglob("*") if file.is_file())
    return {
        file.relative_to(partial).as_posix(): StoredFile(bytes=file.stat().st_size, xxh64=file_digest(file))
        for file in files
    }
