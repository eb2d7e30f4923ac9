"""Qualities of genomes are written to disk, from where a search that was interrupted goes on."""

import json
from collections import UserDict
from pathlib import Path

from recsys.compression.space import Genome
from recsys_cython_ext.files import text_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, parse_json


class Evaluation(Manifest):
    """A line of the log: a genome, its quality, and a checksum of both."""

    widths: list[int]
    rows: list[int]
    quality: float
    xxh64: str = ""

    @property
    def checksum(self) -> str:
        """Return what `xxh64` must be."""
        return text_digest(json.dumps([self.widths, self.rows, self.quality]))


class EvaluationLog(UserDict[Genome, float]):
    """A mapping of genomes to qualities, a line of JSON each, written when it is set; `known` of a search.

    A last line that was cut off by an interruption is removed. A log belongs to one space and one evaluation, so name
    its file by what they depend on, and to one process at a time, so hold a lock on it. Raises ValueError naming file
    and line where another line cannot be read, or its checksum is wrong.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = path = Path(path)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            source = f"{path}, line {number}"
            try:
                evaluation = parse_json(line, Evaluation, source)
                if evaluation.xxh64 != evaluation.checksum:
                    raise DamagedFile(f"{source}: damaged: its checksum is wrong")
                self.data[Genome.from_dict(evaluation.model_dump())] = evaluation.quality
            except DamagedFile as error:
                raise ValueError(f"{error}; remove the line") from None
            except ValueError as error:
                raise ValueError(f"{source}: no evaluated genome ({error}); remove the line") from None
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def __setitem__(self, genome: Genome, quality: float) -> None:
        super().__setitem__(genome, quality)
        line = Evaluation(widths=list(genome.widths), rows=list(genome.rows), quality=float(quality))
        line = line.model_copy(update={"xxh64": line.checksum})
        with self._path.open("a") as file:  # closed at once, so that it is flushed
            file.write(line.model_dump_json() + "\n")
