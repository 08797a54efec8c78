"""A scheduler's way to say stop, treated like Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sigterm_interrupts() -> Iterator[Callable[[], None]]:
    """While this lasts, SIGTERM raises ``KeyboardInterrupt``: clean up, keep everything.

    Yields:
        What to call after a library that has put a handler of its own in this one's place.
    """

    def take() -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    before = signal.getsignal(signal.SIGTERM)
    take()
    try:
        yield take
    finally:
        signal.signal(signal.SIGTERM, before)
