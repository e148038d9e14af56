"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP clean up alike and exit with 128 plus the
signal's number.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

AGAIN_S = 2.0
# What is said of a command that was ended, by signal.
ENDED_BY = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Terminated.",
    signal.SIGHUP: "Hung up.",
}


def end_at_once() -> None:
    """From now on a signal ends this process without a word: nothing has begun, or all is done."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in _heard():
        signal.signal(number, lambda number, _frame: os._exit(128 + number))


@contextmanager
def raise_interrupts(received: list[signal.Signals]) -> Generator[None]:
    """A signal is noted in `received` and raises KeyboardInterrupt, and again after a while: some
    libraries swallow the first. Until then others are not heard, so that there is time to clean up.
    """

    def interrupt(number: int, _frame: object) -> None:
        again = number == signal.SIGALRM
        if received and not again:
            return
        if not again:
            received.append(signal.Signals(number))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (*_heard(), signal.SIGALRM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _heard() -> list[signal.Signals]:
    """Those of them that end this process; under `nohup` SIGHUP does not."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in ENDED_BY if not (nohup and number == signal.SIGHUP)]
