"""Making the next items while the last one is used."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(iterable: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Items of `iterable`, in order, up to `depth` of them made ahead of use by a thread of their own.

    What the iterable raises comes out in its place. The thread begins with the first item and ends with the
    iterable, or when this iterator is closed or no longer referred to: it then finishes the item it is at, and
    closes the iterable. Raises ValueError when depth < 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    return _prefetched(iterable, depth)


def _prefetched(iterable: Iterable[Item], depth: int) -> Iterator[Item]:
    made: deque[Item] = deque()
    changed = threading.Condition()
    left = ended = False
    error: BaseException | None = None

    def make() -> None:
        nonlocal ended, error
        try:
            iterator = iter(iterable)
            try:
                while True:
                    with changed:
                        changed.wait_for(lambda: left or len(made) < depth)
                        if left:
                            break
                    item = next(iterator)
                    with changed:
                        made.append(item)
                        changed.notify()
                    del item  # or it would live until the next one is made
            except StopIteration:
                pass
            finally:
                if hasattr(iterator, "close"):
                    iterator.close()
        except BaseException as caught:
            error = caught
        finally:
            with changed:
                ended = True
                changed.notify()

    # A daemon: an iterator that nobody closed does not keep the process alive.
    thread = threading.Thread(target=make, name="recsys-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: ended or bool(made))
                if not made:
                    break
                item = made.popleft()
                changed.notify()
            yield item
            del item
    finally:
        with changed:
            left = True
            changed.notify()
        if thread is not threading.current_thread():  # which may have collected this iterator as garbage
            thread.join()
    if error is not None:
        raise error
