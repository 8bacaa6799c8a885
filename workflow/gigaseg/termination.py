"""What a job does when it is told to stop: a cluster sends SIGTERM before its time is up.

Blocks in hand are abandoned, for a block is done when the ledger says so. Nothing waits for them: a
thread deep in a network or a kernel would not notice in time. So the signal is answered by a thread
of its own, even while the main thread is in compiled code.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from .ledger import abandon

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 5.0  # seconds after which the process ends even if the books cannot be closed

logger = logging.getLogger(__name__)


def install(job: str, end: Callable[[str], None]) -> None:
    """From now on, end this process soon and in order on SIGTERM and SIGINT.

    Stores under construction note the end of the attempt and give their leases back. The exit
    status is 128 plus the signal's number, as a shell reports it.

    Parameters
    ----------
    job : str
        Name of the job, for the message.
    end : callable
        Takes the outcome, and notes it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in SIGNALS:
        signal.signal(number, _leave_it_to_the_watcher)
    signal.set_wakeup_fd(writing)
    threading.Thread(target=_watch, args=(reading, job, end), name="signals", daemon=True).start()


def _leave_it_to_the_watcher(number: int, frame: object) -> None:
    """Keep the main thread as it is; only a signal with a handler reaches the watcher."""


def _watch(reading: int, job: str, end: Callable[[str], None]) -> None:
    """Wait for the first signal that is ours: Python writes the number of each to the pipe."""
    while (number := os.read(reading, 1)[0]) not in SIGNALS:
        continue
    status = 128 + number
    late = threading.Timer(PATIENCE, os._exit, (status,))
    late.daemon = True
    late.start()
    outcome = f"terminated by {signal.Signals(number).name}"
    try:
        abandon(outcome)
        end(outcome)
        logger.error("%s", outcome)
        print(f"{job} {outcome}: the same command goes on from here", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
