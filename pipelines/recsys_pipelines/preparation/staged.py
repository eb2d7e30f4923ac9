"""What is known of the parts of a log once they were read: records that stand beside the typed rows."""

from pydantic import ConfigDict, Field

from recsys_cython_ext.manifest import FileName, Manifest
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.quarantine import BadRow, Quarantine


class QuarantineRecord(Manifest):
    """The quarantine of a part, as `Quarantine.to_dict` describes it."""

    count: int
    reasons: list[tuple[str | None, str, int]]
    examples: list[BadRow]


class StagedPart(Manifest):
    """What is known of the reading of a part: metadata of the staged file. `name` is the place in the source."""

    name: FileName
    rows: int
    rows_added: int
    next_row: int
    text: dict[str, TextIds]
    quarantine: QuarantineRecord
    unsigned: list[str] = Field(default_factory=list)

    @property
    def bad(self) -> Quarantine:
        """The rows of the part that could not be read."""
        return Quarantine.from_dict(self.quarantine.model_dump())


class Staged(Manifest):
    """All parts of a log: the rows of each by its name, in order, and totals."""

    model_config = ConfigDict(frozen=False)

    rows: dict[FileName, int] = Field(default_factory=dict)
    rows_in: int = 0
    rows_added: int = 0
    rows_out: int = 0
    quarantined: int = 0
    next_row: int = 0
    text: dict[str, TextIds] = Field(default_factory=dict)
    unsigned: list[str] = Field(default_factory=list)
    faulty: list[FileName] = Field(default_factory=list)  # parts with rows in quarantine

    def add(self, part: StagedPart) -> None:
        """Count one more part."""
        self.rows[part.name] = part.rows
        self.rows_added += part.rows_added
        self.rows_out += part.rows
        self.quarantined += part.quarantine.count
        self.rows_in = self.rows_out + self.quarantined - self.rows_added
        self.next_row = max(self.next_row, part.next_row)
        self.text = self.text | part.text
        self.unsigned = sorted({*self.unsigned, *part.unsigned})
        if part.quarantine.count:
            self.faulty = [*self.faulty, part.name]

    @property
    def parts(self) -> list[str]:
        """The names of the parts."""
        return list(self.rows)

    def start(self, part: str) -> int:
        """Return the position of the first row of a part."""
        names = self.parts
        return sum(self.rows[name] for name in names[: names.index(part)])
