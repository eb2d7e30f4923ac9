"""The report of an experiment's tables: their bytes, collisions of their ids, and their places on ranks."""

from dataclasses import asdict

from recsys.planning import TableReport
from recsys.reports.sheet import Row, Sheet
from recsys.training.size import NetworkBytes
from recsys_tables.bytes import ResidentBytes

KINDS = ("weights", "optimiser", "vocabulary", "remaps", "codes", "pointers", "dense", "statistics", "bytes")


def tables_sheets(report: TableReport, network: NetworkBytes) -> list[Sheet]:
    """Return the rows and bytes of tables; then their bytes by kind, collisions of ids, and what each rank holds."""
    return [
        _sizes_sheet(report, network),
        _kinds_sheet(report),
        _collisions_sheet(report),
        _ranks_sheet(report),
    ]


def tables_summary(report: TableReport) -> str:
    """Return the bytes of all tables, and how many these are of the full table's."""
    share = report.bytes.total / report.full_bytes
    return (
        f"{report.name}: {report.bytes.total:,} bytes, {share:.1%} of the full table's {report.full_bytes:,}"
    )


def _sizes_sheet(report: TableReport, network: NetworkBytes) -> Sheet:
    rows = [(*row[:5], _kinds(size)[0], _kinds(size)[-1]) for row, size in _entries(report)]
    return Sheet(
        "Tables",
        ("feature", "scheme", "ids", "rows", "width", "weights", "bytes"),
        rows,
        f"Above the tables, in no budget: a network of {network.parameters:,} bytes, and in training "
        f"{network.optimizer:,} of its optimiser.",
    )


def _kinds_sheet(report: TableReport) -> Sheet:
    rows = [(row[0], *_kinds(size)) for row, size in _entries(report)]
    return Sheet("Bytes by kind", ("feature", *KINDS), rows)


def _entries(report: TableReport) -> list[tuple[Row, ResidentBytes]]:
    """Return name, scheme, ids, rows and width of whatever has bytes, and these; the total is the last."""
    entries: list[tuple[Row, ResidentBytes]] = []
    for table in report.shared:
        label = f"{table.table}, of {len(table.features)} features"
        entries.append(((label, "", "", f"{table.rows:,}", str(table.width)), table.bytes))
    shared = {table.table for table in report.shared}
    for entry in report.features:
        rows = "shared" if shared.issuperset(entry.tables) else f"{entry.rows:,}"
        entries.append(((entry.feature, entry.scheme, f"{entry.ids:,}", rows, str(entry.width)), entry.bytes))
    nothing = ("", "", "", "")
    if report.bytes.codes:
        entries.append((("codes, of all features", *nothing), ResidentBytes(codes=report.bytes.codes)))
    for name, size in report.statistics.items():
        entries.append(((name, *nothing), ResidentBytes(statistics=size)))
    return [*entries, (("total", *nothing), report.bytes)]


def _collisions_sheet(report: TableReport) -> Sheet:
    rows = []
    for entry in report.features:
        pairs = zip(asdict(entry.expected).values(), asdict(entry.observed).values(), strict=True)
        rates = ["–" if rate is None else f"{rate:.2%}" for pair in pairs for rate in pair]
        rows.append((entry.feature, f"{entry.ids:,}", *rates))
    return Sheet(
        "Share of impressions whose id collides",
        (
            *("feature", "ids", "all rows: expected", "observed", "any row: expected", "observed"),
            *("a row of another feature: expected", "observed"),
        ),
        rows,
    )


def _ranks_sheet(report: TableReport) -> Sheet:
    rows = []
    for entry in report.ranks:
        kinds = (entry.parameters, entry.optimizer, entry.codes, entry.dense)
        by_type: dict[str, list[str]] = {}
        for shard in entry.shards:
            by_type.setdefault(shard.sharding, []).append(shard.table)
        tables = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_type.items())
        numbers = (f"{number:,}" for number in (*kinds, sum(kinds)))
        rows.append((str(entry.rank), str(len(entry.shards)), *numbers, tables))
    return Sheet(
        f"Sharding over {len(report.ranks)} ranks: {report.sharding}",
        ("rank", "shards", "weights", "optimiser", "codes", "dense", "bytes", "tables"),
        rows,
    )


def _kinds(counts: ResidentBytes) -> list[str]:
    return [f"{number:,}" for number in (*asdict(counts).values(), counts.total)]
