"""Memory and time that a job asks a cluster for: from the forecast, where there is one."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .manifests import read_manifest

#: MB beside the job's own: a cluster counts the two Snakemakes that start it, some 250 MB each.
STARTERS = 600
SAFETY = 1.1  # a forecast of memory is seldom too low, and a killed job costs more
SLACK = 3.0  # a forecast of time comes from other machines, disks and neighbours
STARTING = 10  # min; a job starts Snakemake twice, and a node may have to be woken


class Allocations:
    """What the jobs of a run ask for.

    Snakemake asks once more when a job is about to be submitted; by then the forecast of the run
    has been written.

    Parameters
    ----------
    results : Path
        Folder of the results, with ``benchmarks/forecast.json`` once there was a forecast.
    longest : int
        Minutes that no job exceeds: the cluster would not take it.
    """

    def __init__(self, results: Path, longest: int) -> None:
        self._results, self._longest = results, longest
        self._seen: int | None = None
        self._jobs: Mapping[str, Mapping[str, Any]] = {}

    def asks(
        self,
        memory: int,
        minutes: int,
        manifest: str | None = None,
        *,
        resumes: bool = False,
    ) -> dict[str, Callable[..., int]]:
        """Return the resources of a rule.

        Memory doubles at a second attempt and no more, for attempts also count what was cut by a
        time limit. A job that goes on where it was cut asks for the same time again; another that
        was cut would be cut again, and asks for twice and then four times as much.

        Parameters
        ----------
        memory : int
            MB to ask for if nothing is forecast.
        minutes : int
            Likewise.
        manifest : str, optional
            Pattern of the path by which the forecast knows the jobs of the rule.
        resumes : bool
            Whether a job goes on where an earlier attempt was ended.

        Returns
        -------
        dict
            ``mem_mb`` and ``runtime``, as functions of the wildcards and the attempt.

        Examples
        --------
        >>> rule = Allocations(Path("results"), longest=600).asks(4000, 240)
        >>> [rule["mem_mb"]({}, attempt) for attempt in (1, 2, 3)]
        [4000, 8000, 8000]
        >>> [rule["runtime"]({}, attempt) for attempt in (1, 2, 3)]
        [240, 480, 600]
        """

        def mem_mb(wildcards: Any, attempt: int) -> int:
            asked = self._forecast(manifest, wildcards).get("mem_mb") or memory
            return int(asked) * min(attempt, 2)

        def runtime(wildcards: Any, attempt: int) -> int:
            forecast = self._forecast(manifest, wildcards).get("runtime")
            parts = int(dict(wildcards.items()).get("parts", 1))
            asked = STARTING + math.ceil((forecast - STARTING) / parts) if forecast else minutes
            return min(asked if resumes else asked << min(attempt - 1, 2), self._longest)

        return {"mem_mb": mem_mb, "runtime": runtime}

    def _forecast(self, manifest: str | None, wildcards: Any) -> Mapping[str, Any]:
        """Return what the newest forecast has of a job."""
        if manifest is None:
            return {}
        path = self._results / "benchmarks" / "forecast.json"
        try:
            written = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if written != self._seen:
            self._jobs, self._seen = read_manifest(path)["jobs"], written
        name = Path(manifest.format(**dict(wildcards.items())))
        return self._jobs.get(name.relative_to(self._results).as_posix(), {})


def allocation(memory: float, seconds: float | None) -> dict[str, int | None]:
    """Return what a job asks for whose needs are forecast.

    Parameters
    ----------
    memory : float
        Bytes at its peak.
    seconds : float or None
        None if it is not known.

    Returns
    -------
    dict
        ``mem_mb``, and ``runtime`` in minutes or None.

    Examples
    --------
    >>> allocation(2e9, 600.0)
    {'mem_mb': 2800, 'runtime': 40}
    >>> allocation(2e9, None)["runtime"] is None
    True
    """
    minutes = None if seconds is None else STARTING + math.ceil(SLACK * seconds / 60)
    return {"mem_mb": STARTERS + math.ceil(SAFETY * memory / 1e6), "runtime": minutes}
