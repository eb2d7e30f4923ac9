"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

PREPARED, RUNS = Path("prepared"), Path("runs")

ConfigArgument = Annotated[Path, typer.Argument(help="experiment as YAML", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="folder of a finished run", show_default=False)]
DataOption = Annotated[
    str | None, typer.Option("--data", help="path or URL to read instead of the config's data.path")
]
OnOption = Annotated[
    Path | None,
    typer.Option("--on", help="finished prepared folder to use, such as one that was appended to"),
]
PreparedOption = Annotated[Path, typer.Option("--prepared", help="where prepared data is kept")]
RunsOption = Annotated[Path, typer.Option("--runs", help="where runs are kept")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="training seeds per arm")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help="runs at once; default: one per core")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="say what time, memory and disk it takes, and train nothing")
]
DetailsOption = Annotated[
    bool, typer.Option("--details", help="print every table and sentence, not only the first")
]
ReportOption = Annotated[Path, typer.Option("--report", help="HTML report to write")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster that sees the same folders; default: started on this machine"
    ),
]
DtypeOption = Annotated[
    Literal["fp32", "fp16", "fp8", "int8", "int4"],
    typer.Option("--dtype", help="of the exported tables; fp8, int8 and int4 have a scale a row"),
]
LevelOption = Annotated[float, typer.Option("--level", help="of the intervals")]

# columns of a log
PositionOption = Annotated[
    str | None, typer.Option("--position", help="place in a list; default: position, rank, if any")
]
UserOption = Annotated[
    str | None, typer.Option("--user", help="whose rows are dependent; default: user, user_id, if any")
]
