"""Progress of long work, as everything that works long tells it."""

from typing import Protocol


class Progress(Protocol):
    """Progress of a stage of long work."""

    def __call__(self, stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        """Take note that `finished` units of a stage are done, of how many where that is known."""


def no_progress(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
    """Take no note of progress."""


def prefixed(prefix: str, progress: Progress) -> Progress:
    """Return progress whose stages begin with a prefix."""

    def report(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        progress(f"{prefix}: {stage}", finished, of, detail)

    return report
