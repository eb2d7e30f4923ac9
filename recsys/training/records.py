"""The record of a finished run is metrics.json: what it holds is written once, and read again with checks."""

from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from recsys.config import ConfigError
from recsys_cython_ext.manifest import SEAL, DamagedFile, Manifest, read_json, read_manifest

Number = int | float | None  # of a metric; None where it could not be measured


class RunRecord(Manifest):
    """What metrics.json holds: metrics, of which those that are read again are checked, and checksums.

    prepared: the folder trained on. files: of what lies beside it, by name; None in a run of an earlier version.
    """

    model_config = ConfigDict(extra="allow")

    prepared: str
    bytes: dict[str, int] | None = None
    validation: dict[str, Number] | None = None
    test: dict[str, Number] | None = None
    best_possible: dict[str, Number] | None = None
    fields: dict[str, dict[str, Number]] | None = None
    history: list[dict[str, Number]] | None = None
    training_seconds: int | float | None = None
    files: dict[str, str] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the metrics that were written."""
        return self.model_dump(exclude_unset=True, exclude={"files", SEAL})


class RunMetrics(dict[str, Any]):
    """Metrics of a run, by name; a key that they lack raises ConfigError naming the file `source` and the key."""

    def __init__(self, metrics: dict[str, Any], source: Path) -> None:
        super().__init__(metrics)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise ConfigError(
            f"{self.source}: damaged, or not written by this program: it lacks the key {key!r}; train again"
        )


def read_record(file: Path, again: str) -> RunRecord:
    """Read metrics.json; one of an earlier version has no checksum. Raises DamagedFile as `read_manifest` does."""
    try:
        record = read_json(file, RunRecord)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; {again}") from None
    if record.files is None and SEAL not in (record.model_extra or {}):
        return record
    return read_manifest(file, RunRecord, {}, again)
