"""Making the next items while the last one is used."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


def prefetched(iterable: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield the items of `iterable`, in order, up to `depth` of them made ahead of use by a thread of their own.

    What the iterable raises comes out in its place. The thread begins with the first item and ends with the
    iterable, or when this iterator is closed or no longer referred to: it then finishes the item it is at, and
    closes the iterable. Raises ValueError when depth < 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    return _taken(_Queue(depth), iterable)


class _Queue(Generic[Item]):
    """Up to `depth` items that a thread has made and nobody has taken yet."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self.error: BaseException | None = None

    def fill(self, iterable: Iterable[Item]) -> None:
        """Make items until they end or nobody takes them any more. What is raised is kept as `error`."""
        try:
            self._make(iterable)
        except BaseException as error:
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _make(self, iterable: Iterable[Item]) -> None:
        iterator = iter(iterable)
        try:
            while self._has_room():
                item = next(iterator)
                with self._changed:
                    self._items.append(item)
                    self._changed.notify()
                del item  # or it would live until the next one is made
        except StopIteration:
            pass
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    def _has_room(self) -> bool:
        """Wait for room; False when nobody takes items any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            return not self._closed

    def take(self) -> Item:
        """Wait for the next item. Raises LookupError when there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or bool(self._items))
            if not self._items:
                raise LookupError
            item = self._items.popleft()
            self._changed.notify()
            return item

    def close(self) -> None:
        """Say that nobody takes items any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def _taken(queue: _Queue[Item], iterable: Iterable[Item]) -> Iterator[Item]:
    # A daemon: an iterator that nobody closed does not keep the process alive.
    thread = threading.Thread(target=queue.fill, args=(iterable,), name="recsys-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.take()
            except LookupError:
                break
            yield item
            del item
    finally:
        queue.close()
        if thread is not threading.current_thread():  # which may have collected this iterator as garbage
            thread.join()
    if queue.error is not None:
        raise queue.error
