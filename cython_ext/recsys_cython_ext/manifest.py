"""JSON files that say what lies beside them: written with a checksum of their own, and read strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from recsys_cython_ext.files import text_digest, write_json

Model = TypeVar("Model", bound=BaseModel)

SEAL = "manifest_xxh64"  # key of the checksum
_SHOWN = 60  # characters of a value that an error shows


class DamagedFile(ValueError):
    """A file is damaged, or is not what its reader writes; the message names file, key and value."""


class OtherVersion(ValueError):
    """A manifest may be whole, but another version of this program wrote it."""


class Readable(Protocol):
    """What manifests are read from: a path, or what reads like one."""

    def read_bytes(self) -> bytes:
        """Return all that the file holds."""
        ...


class Manifest(BaseModel):
    """Base of what is read from JSON: no type is converted, and no key is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


def _inside(name: str) -> str:
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("a file of the folder is named by a path without '..' that does not begin with '/'")
    return name


FileName = Annotated[str, AfterValidator(_inside)]  # of a file below the manifest's folder


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest, with its checksum, as a file that appears whole."""
    value = manifest.model_dump(mode="json")
    write_json({**value, SEAL: _seal(value)}, path)


def read_manifest(path: Readable, model: type[Model], versions: Mapping[str, int], again: str) -> Model:
    """Read what `write_manifest` wrote.

    Args:
        path: The file.
        model: What it holds.
        versions: What the integers of these names must be.
        again: What to do where it cannot be used, such as "export again"; errors end with it.

    Raises:
        FileNotFoundError: There is no such file.
        OtherVersion: A version is another one.
        DamagedFile: It is no JSON, its checksum is wrong, it lacks a key, or has one of another type or name.
    """
    try:
        value = _parsed(path)
        seal = value.pop(SEAL, None)
        if seal is not None and seal != _seal(value):
            raise DamagedFile(f"{path}: damaged: its checksum is wrong")
        for name, mine in versions.items():
            if type(number := value.get(name)) is not int:
                raise DamagedFile(f"{path}: damaged, or of another version: it lacks the key {name!r}")
            if number != mine:
                cure = "update this program" if number > mine else again
                raise OtherVersion(f"{path}: {name} {number}, but this program reads {mine}; {cure}")
        if seal is None:  # not said before: another version may have none
            raise DamagedFile(f"{path}: damaged, or not written by this program: it has no checksum")
        return parse_json(json.dumps(value), model, path)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {again}") from None
    except RecursionError:  # of a depth that is still parsed, but not written again
        raise DamagedFile(f"{path}: damaged: nested too deeply; {again}") from None


def read_json(path: Readable, model: type[Model]) -> Model:
    """Read a JSON file that has no checksum of its own into a pydantic model, strictly.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It is no JSON, nested too deeply, lacks a key, or has one of another type or name.
    """
    return parse_json(path.read_bytes(), model, path)


def parse_json(text: str | bytes, model: type[Model], source: object) -> Model:
    """Read JSON text into a pydantic model as `read_json` does; `source` is what errors name."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise DamagedFile(f"{source}: {_sentence(error)}") from None


def _parsed(path: Readable) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: damaged: {error}") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path}: damaged, or not written by this program: it holds no keys")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(value, sort_keys=True))


def _sentence(error: ValidationError) -> str:
    """Tell the first mistake that pydantic found."""
    first = error.errors()[0]
    key = ".".join(str(step) for step in first["loc"])
    if first["type"] == "json_invalid":
        return f"damaged: {first['ctx']['error']}"
    if first["type"] == "missing":
        return f"damaged, or not written by this program: it lacks the key {key!r}"
    if first["type"] == "extra_forbidden":
        return f"damaged, or not written by this program: it has an unknown key {key!r}"
    shown = repr(first["input"])
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
    where = f"its key {key!r} is {shown}" if key else f"it holds {shown}"
    return f"damaged, or not written by this program: {where}: {first['msg']}"
