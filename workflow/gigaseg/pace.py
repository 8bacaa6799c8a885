"""How far a piece of work is, how fast it goes and when it will be done, told now and then.

Plain lines, never a carriage return: a log file, that of a cluster among them, is read as well as a
terminal. See `gigaseg.logs` for where they go.
"""

import logging
import threading
import time
from collections.abc import Callable

from .benchmarks import duration

logger = logging.getLogger(__name__)

FIRST = 10.0  # seconds before the first line: what is done by then needs no words
EVERY = 30.0  # seconds from line to line


class Pace:
    """Counts what is done, and says so: after 10 s, then every 30 s, and at the end.

    Work that takes less than 10 s is done without a word. What an earlier process did counts as
    done and has no part in how fast the work goes.

    Parameters
    ----------
    what : str
        What is worked on, such as the name of a sample; may be empty.
    total : int
        Number of units.
    unit : str
        Plural of the unit: ``blocks``, ``steps``, ``samples``.
    voxels : int, optional
        Of all units together: speed and time left are told by voxels then, as units may differ.
    done : int
        Units an earlier process did.
    clock : callable
        Returns seconds.
    say : callable
        Takes a line; by default it goes to the log and to the console.

    Examples
    --------
    >>> now = iter([0, 10, 20, 40])
    >>> how = {"clock": lambda: next(now), "say": print}
    >>> pace = Pace("nuclei-3", 4, "blocks", voxels=4 * 1024**2, **how)
    >>> pace.advance(voxels=1024**2, kept=True)  # done by an earlier process, verified in 10 s
    nuclei-3: 1 of 4 blocks
    >>> pace.advance(voxels=1024**2)  # a line is not due yet
    >>> pace.advance(voxels=1024**2)
    nuclei-3: 3 of 4 blocks, 0.07 Mpx/s, 15 s left
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        voxels: int | None = None,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        self._before = f"{what}: " if what else ""
        self._total, self._unit = total, unit
        self._clock, self._say = clock, say
        self._by_voxels = voxels is not None
        self._done, self._kept = done, done
        self._left = total - done if voxels is None else voxels  # units or voxels
        self._fresh = 0  # of these, done here
        self._lock = threading.Lock()
        self._start = self._fresh_since = clock()
        self._due = self._start + FIRST

    def advance(self, count: int = 1, *, voxels: int = 0, kept: bool = False) -> None:
        """Note that units are done; from any thread.

        Parameters
        ----------
        count : int
            Number of units.
        voxels : int
            Their size.
        kept : bool
            An earlier process did them.
        """
        size = voxels if self._by_voxels else count
        with self._lock:
            now = self._clock()
            self._done += count
            self._left -= size
            if kept:
                self._kept += count
            else:
                self._fresh += size
            if not self._fresh:  # what is only verified takes another time
                self._fresh_since = now
            if self._done >= self._total:
                if now >= self._start + FIRST:
                    self._say(self._at_the_end(now))
            elif now >= self._due:
                self._due = now + EVERY
                self._say(self._underway(now))

    def _underway(self, now: float) -> str:
        line = f"{self._before}{self._done} of {self._total} {self._unit}"
        speed = self._speed(now)
        if not speed:
            return line
        return f"{line}, {self._tell(speed)}, {_roughly(self._left / speed)} left"

    def _at_the_end(self, now: float) -> str:
        kept = f", {self._kept} of them done before," if self._kept else ""
        took = _roughly(now - self._start)
        line = f"{self._before}{self._total} {self._unit}{kept} in {took}"
        speed = self._speed(now)
        return f"{line}, {self._tell(speed)}" if speed else line

    def _speed(self, now: float) -> float:
        """Return units or voxels per second; 0 as long as nothing was done here."""
        seconds = now - self._fresh_since
        return self._fresh / seconds if seconds > 0 else 0.0

    def _tell(self, speed: float) -> str:
        if self._by_voxels:
            return f"{_short(speed / 1e6)} Mpx/s"
        return f"{_short(speed)} {self._unit}/s"


def _short(number: float) -> str:
    """Write a number with the two digits that matter.

    Examples
    --------
    >>> _short(0.0345), _short(3.14), _short(99.6), _short(1234.5)
    ('0.035', '3.1', '100', '1234')
    """
    return f"{number:.2g}" if number < 99 else f"{number:.0f}"


def _roughly(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else duration(seconds)
