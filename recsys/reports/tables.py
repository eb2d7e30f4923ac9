"""The report of an experiment's tables: their bytes, collisions of their ids, and their places on ranks, as text tables."""

from dataclasses import asdict

from rich.table import Table as Grid

from recsys.planning import TableReport
from recsys.reports.sheet import plain
from recsys.training.size import NetworkBytes
from recsys_tables.bytes import ResidentBytes


def grids(report: TableReport, network: NetworkBytes) -> list[Grid]:
    """Return the report as three tables for a terminal: bytes, with the network above the tables, collisions, ranks."""
    return [_bytes_grid(report, network), _collisions_grid(report), _ranks_grid(report)]


def _bytes_grid(report: TableReport, network: NetworkBytes) -> Grid:
    share = report.bytes.total / report.full_bytes
    grid = Grid(
        *("feature", "scheme", "ids", "rows", "width"),
        *(
            "weights",
            "optimiser",
            "vocabulary",
            "remaps",
            "codes",
            "pointers",
            "dense",
            "statistics",
            "bytes",
        ),
        title=f"{report.name}: {report.bytes.total:,} bytes, {share:.1%} of the full table's {report.full_bytes:,}",
        caption=f"above the tables, in no budget: a network of {network.parameters:,} bytes, and in training "
        f"{network.optimizer:,} of its optimiser",
    )
    shared = {table.table for table in report.shared}
    for table in report.shared:
        label = f"{plain(table.table)}, of {len(table.features)} features"
        grid.add_row(label, "", "", f"{table.rows:,}", str(table.width), *_kinds(table.bytes))
    for entry in report.features:
        rows = "shared" if shared.issuperset(entry.tables) else f"{entry.rows:,}"
        grid.add_row(
            plain(entry.feature), entry.scheme, f"{entry.ids:,}", rows, str(entry.width), *_kinds(entry.bytes)
        )
    if report.bytes.codes:
        grid.add_row(
            "codes, of all features", "", "", "", "", *_kinds(ResidentBytes(codes=report.bytes.codes))
        )
    for name, size in report.statistics.items():
        grid.add_row(plain(name), "", "", "", "", *_kinds(ResidentBytes(statistics=size)))
    grid.add_section()
    grid.add_row("total", "", "", "", "", *_kinds(report.bytes))
    return grid


def _collisions_grid(report: TableReport) -> Grid:
    grid = Grid(
        *("feature", "ids", "all rows: expected", "observed", "any row: expected", "observed"),
        *("a row of another feature: expected", "observed"),
        title="share of impressions whose id collides",
    )
    for entry in report.features:
        pairs = zip(asdict(entry.expected).values(), asdict(entry.observed).values(), strict=True)
        rates = ["–" if rate is None else f"{rate:.2%}" for pair in pairs for rate in pair]
        grid.add_row(plain(entry.feature), f"{entry.ids:,}", *rates)
    return grid


def _ranks_grid(report: TableReport) -> Grid:
    grid = Grid(
        *("rank", "shards", "weights", "optimiser", "codes", "dense", "bytes", "tables"),
        title=f"sharding over {len(report.ranks)} ranks: {report.sharding}",
    )
    for entry in report.ranks:
        kinds = (entry.parameters, entry.optimizer, entry.codes, entry.dense)
        by_type: dict[str, list[str]] = {}
        for shard in entry.shards:
            by_type.setdefault(shard.sharding, []).append(shard.table)
        tables = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_type.items())
        numbers = (f"{number:,}" for number in (*kinds, sum(kinds)))
        grid.add_row(str(entry.rank), str(len(entry.shards)), *numbers, plain(tables))
    return grid


def _kinds(counts: ResidentBytes) -> list[str]:
    return [f"{number:,}" for number in (*asdict(counts).values(), counts.total)]
