"""The labels that a part of the data must have are checked before anything is trained."""

NEGATIVES = (
    "A log of positives only needs negatives to learn from: add rows with label 0 (shown and not taken, or items drawn "
    "for each user), or set data.label: {column: …, threshold: …} where a rating or a count tells both; in a loop of "
    "your own, recsys_pipelines.batches.negatives.NegativeSampler draws items for each positive row"
)
POSITIVES = (
    "Nothing can be learnt from them: bring rows that are positive, or set data.label: {column: …, threshold: …} where "
    "a lower value counts as positive"
)


class OneClass(ValueError):
    """All rows of a part have the same label, and what is to be done needs both."""


def one_class(rows: int, positives: int) -> str | None:
    """Say in words that all labels of a part are the same; None where they are not."""
    if 0 < positives < rows:
        return None
    return f"all {rows:,} labels are {int(positives > 0)}"


def check_training(rows: int, positives: int) -> None:
    """Raise OneClass unless training rows have both labels."""
    if (same := one_class(rows, positives)) is not None:
        raise OneClass(f"the training part has one class: {same}. {NEGATIVES if positives else POSITIVES}")


def check_measured(part: str, rows: int, positives: int, purpose: str) -> None:
    """Raise OneClass unless the rows of validation or test have both labels; `purpose` is what needs them."""
    if (same := one_class(rows, positives)) is not None:
        missing = "negative" if positives else "positive"
        raise OneClass(
            f"the {part} part has one class: {same}, and {purpose} needs both. Bring rows of which some are {missing}, "
            f"or change data.split so that the {part} part gets some"
        )
