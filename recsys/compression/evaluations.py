"""Qualities of genomes on disk: a search that was interrupted goes on from there."""

import json
from collections import UserDict
from pathlib import Path

from recsys.compression.space import Genome


class EvaluationLog(UserDict[Genome, float]):
    """Genome -> quality, a line of JSON each, written when it is set; `known` of a search.

    A last line that was cut off by an interruption is removed. A log belongs to one space and one evaluation: name
    its file by what they depend on. Raises ValueError naming file and line where another line cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                values = json.loads(line)
                self.data[Genome.from_dict(values)] = float(values["quality"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: no evaluated genome ({error}): remove the line"
                ) from None
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))

    def __setitem__(self, genome: Genome, quality: float) -> None:
        super().__setitem__(genome, quality)
        with self._path.open("a") as file:  # closed at once, so that it is flushed
            file.write(json.dumps({**genome.to_dict(), "quality": quality}) + "\n")
