"""Work spread over processes, its results in the order of the work, whatever the number of processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterable, Iterator

from .errors import PMLMError


def in_order(
    function: Callable, items: Iterable, workers: int, start: Callable | None = None, arguments: tuple = ()
) -> Iterator[tuple[Any, Any]]:
    """Each of *items* with what *function* makes of it, in the order of *items*.

    Only a few items for each worker are held at a time: a corpus larger than memory must pass through.

    Args:
        function: what to call on each item; it and the items travel to other processes.
        items: the work; taken from the iterator in this process, a little ahead of the results.
        workers: number of processes; 1: everything happens in this one.
        start: called first in each process that works, with *arguments*.

    Raises:
        PMLMError: *function* raised it, or a worker process was killed.
    """
    if workers == 1:
        if start is not None:
            start(*arguments)
        for item in items:
            yield item, function(item)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(start, arguments)) as pool:
        pending: deque[tuple[Any, Future]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) > 4 * workers:
                    item, result = pending.popleft()
                    yield item, result.result()
            while pending:
                item, result = pending.popleft()
                yield item, result.result()
        except BrokenProcessPool:
            raise PMLMError("a worker process was killed, perhaps for want of memory; try fewer --workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(start: Callable | None, arguments: tuple) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops its workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()  # a pool whose parent was killed would wait for work for ever
    os._exit(1)
