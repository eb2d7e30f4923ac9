"""Which column is the user, whose rows are dependent."""

from recsys.starting import names
from recsys.starting.label import Ambiguous, named_column
from recsys.starting.sample import Column, Sample
from recsys.starting.text import listed, one_line
from recsys.starting.times import NONE


def choose_user(sample: Sample, path: str, name: str | None, known: str | None) -> tuple[str | None, str]:
    """Return the user's column and why: the one that a flag names, what is known of the log, or a guess. Raises Ambiguous.

    Guessed is the column called user, user_id, uid, …, or else visitor, customer, member, …, whose values repeat.
    """
    if name == NONE and name not in sample.columns:
        return None, "--user none"
    if name is not None:
        column = named_column(sample, "--user", name)
        if not _is_id(column):
            raise Ambiguous(f"--user {one_line(name)}: its values ({column.type_name}) are no ids")
        return name, "named by --user"
    if known is not None and known in sample.columns:
        return known, "this log's user"
    ranks = {
        column.name: rank
        for column in sample.columns.values()
        if (rank := names.user_rank(column.name)) is not None and _is_id(column) and _repeats(column)
    }
    best = [name for name, rank in ranks.items() if rank == min(ranks.values())]
    if len(best) > 1:
        raise Ambiguous(
            f"{path}: {listed(best)} are each called like a user: say which with --user, such as --user {one_line(best[0])}"
            ", or --user none"
        )
    if not best:
        return None, "no column is called like a user and has values that repeat"
    return best[0], "named: it is called like a user, and its values repeat"


def _is_id(column: Column) -> bool:
    return column.is_text or column.is_whole


def _repeats(column: Column) -> bool:
    return 1 < column.distinct < len(column.present)
