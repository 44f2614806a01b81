"""fairseq's threads that read batches ahead, when Python ends."""

import contextlib
import queue
import threading
import time


def stop_readers() -> None:
    """Stop fairseq's threads that read batches ahead, before Python ends.

    Why: where training stops within an epoch, such a thread is cut off at whatever it does; in the middle of torch's
    C++ that is "terminate called without an active exception", and status -6 for a training that has succeeded.
    """
    from fairseq.data import iterators

    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if not isinstance(thread, iterators.BackgroundConsumer):
            continue
        thread._max_len = 0  # it looks at this after each batch
        while thread.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                thread._queue.get_nowait()  # it may wait for room
            thread.join(0.02)
