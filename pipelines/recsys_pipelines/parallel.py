"""Work on several threads whose results come in the order of the work."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from recsys_cython_ext.threads import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Yield the results of `work` over `items`, in their order, with at most `threads` + 1 of them in memory.

    threads: one for each available core unless given. It is for work that releases the GIL, as Arrow, Polars and our
    kernels do. What `work` or `items` raises comes out in its place; work that was not begun is then dropped.
    """
    threads = threads or available_cores()
    if threads == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="recsys-ordered") as pool:
        try:
            source, failure = iter(items), None
            while True:
                try:
                    waiting.append(pool.submit(work, next(source)))
                except StopIteration:
                    break
                except Exception as error:  # comes out after the results before it
                    failure = error
                    break
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in waiting:
                future.cancel()
