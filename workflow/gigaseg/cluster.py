"""Run one function many times on the workers of a Dask cluster that is already there.

Nothing is started here: no scheduler, no worker, no dashboard. `gigaseg.workers` starts them for a
job, or whoever runs a cluster of his own, who says how much memory a worker has and where it spills
(``local-directory``, best below ``$TMPDIR``).
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

Call = TypeVar("Call", bound=tuple[Any, ...])

PATIENCE = 30  # seconds to wait for a scheduler


def _digest_sources() -> str:
    """Digest the library's source files."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


LOADED = _digest_sources()  # when this process began: what it runs, whatever the files say now


def loaded() -> str:
    """Return the digest of the library as this process loaded it."""
    return LOADED


def run_on_cluster(
    scheduler: str, function: Callable[..., Any], calls: Sequence[Call]
) -> Iterator[tuple[Call, Any]]:
    """Call a function on the workers of a cluster; yield each call with its result, in any order.

    What a lost worker had in hand is done by another. After an error nothing more is begun.

    Parameters
    ----------
    scheduler : str
        Address, such as ``tcp://node7:8786``.
    function : callable
        Travels by value if it is nested in another function, by name otherwise.
    calls : sequence of tuple
        Arguments of each call.

    Raises
    ------
    ConnectionError
        If no scheduler answers, or a worker runs other code than this process.
    RuntimeError
        If a block ended every worker that tried it, or no worker is left.
    """
    from distributed import Client, as_completed  # takes a second, and few runs need it
    from distributed.protocol.pickle import dumps
    from distributed.scheduler import KilledWorker, NoWorkerError

    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except OSError as problem:
        raise ConnectionError(
            f"no Dask scheduler answers at {scheduler} ({problem}): start one, or set "
            f"dask.scheduler_address to null to run in threads of each job"
        ) from problem
    with client:
        _check_code(client, scheduler)
        # A result of a task, and so sent to each worker once and made again if it is lost. Bytes,
        # lest the scheduler opens the files that the function reads.
        shared = client.submit(_return, dumps(function), pure=False)
        futures = {client.submit(_call, shared, *call, pure=False): call for call in calls}
        try:
            for future in as_completed(list(futures), loop=client.loop):
                yield futures[future], future.result()
        except (KilledWorker, NoWorkerError) as problem:
            raise RuntimeError(
                f"the Dask workers at {scheduler} were lost or stuck, most often for too little "
                f"memory: give each more, or use fewer ({problem})"
            ) from problem
        finally:
            client.cancel(list(futures))


def _return(function: bytes) -> bytes:
    return function


def _call(function: bytes, *arguments: Any) -> Any:
    return _unpickle(function)(*arguments)


@lru_cache(maxsize=1)
def _unpickle(function: bytes) -> Callable[..., Any]:
    return pickle.loads(function)


def _check_code(client: Any, scheduler: str) -> None:
    """Raise ConnectionError if a worker loaded another version of the library."""
    client.wait_for_workers(1, timeout=PATIENCE)
    others = [worker for worker, code in client.run(loaded).items() if code != LOADED]
    if others:
        raise ConnectionError(
            f"{len(others)} workers of the Dask cluster at {scheduler} run other code of gigaseg "
            f"than this process ({', '.join(sorted(others)[:3])}): restart them"
        )
