"""Several processes that train one network: which one this is, and how the first starts the others.

The job's own process is the first: it alone holds the lease and writes. The others are started by
name and not by running the job's script again, which Snakemake has copied somewhere and which has
no main guard. They are told what to do on their standard input, and end when it does: when the
first process ends, however it ends.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from .ledger import abandon

logger = logging.getLogger(__name__)

PATIENCE = 20.0  # seconds for the first process to notice by itself that another is gone


@dataclass(frozen=True)
class Place(ClusterEnvironment):
    """The place of a process among those that train one network.

    Parameters
    ----------
    rank : int
        Its number; process 0 validates and writes.
    processes, nodes : int
        How many there are, and on how many machines; as many on each.
    address, port : str, int
        Where process 0 listens.

    Examples
    --------
    >>> place = Place(rank=5, processes=8, nodes=2)
    >>> place.per_node, place.node_rank(), place.local_rank()
    (4, 1, 1)
    """

    rank: int = 0
    processes: int = 1
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def first(cls, processes: int, nodes: int) -> "Place":
        """Return the place of the job's own process, which chooses where to listen.

        Raises
        ------
        ValueError
            If the processes cannot be shared out evenly.
        """
        if processes % nodes:
            raise ValueError(
                f"training.processes is {processes}, which {nodes} nodes cannot share evenly: "
                f"make it a multiple of the rule's resource `nodes`"
            )
        if processes == 1:
            return cls()
        address = "127.0.0.1" if nodes == 1 else socket.gethostname()
        return cls(0, processes, nodes, address, find_free_network_port())

    def check_batch(self, batch: int) -> None:
        """Raise ValueError if a batch, perhaps one that was chosen, has no tile for some process."""
        if batch < self.processes:
            raise ValueError(
                f"training.processes is {self.processes}, and a batch of {batch} tiles has none for "
                f"some of them: raise training.batch, or lower it"
            )

    def check_devices(self, device: str) -> None:
        """Raise ValueError if there are fewer GPUs than processes on this machine."""
        there = torch.cuda.device_count() if device == "cuda" else self.per_node
        if there < self.per_node:
            raise ValueError(
                f"training.processes asks for {self.per_node} GPUs on each machine, and there are "
                f"{there} here: lower it, or give the rule more (resources: gpu, nodes)"
            )

    @property
    def per_node(self) -> int:
        """Processes on each machine."""
        return self.processes // self.nodes

    @property
    def creates_processes_externally(self) -> bool:
        """Say that Fabric is not to start any."""
        return True

    @property
    def main_address(self) -> str:
        """Where process 0 listens."""
        return self.address

    @property
    def main_port(self) -> int:
        """Where process 0 listens."""
        return self.port

    @staticmethod
    def detect() -> bool:
        """Say that this is no place to be found by Fabric itself."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self.processes

    def set_world_size(self, size: int) -> None:
        """Refuse another number of processes."""
        assert size == self.processes

    def global_rank(self) -> int:
        """Return the number of this process."""
        return self.rank

    def set_global_rank(self, rank: int) -> None:
        """Refuse another number."""
        assert rank == self.rank

    def local_rank(self) -> int:
        """Return the number of this process on its machine, and so of its GPU."""
        return self.rank % self.per_node

    def node_rank(self) -> int:
        """Return the number of its machine."""
        return self.rank // self.per_node


@contextmanager
def companions(place: Place, program: str, job: Mapping[str, Any]) -> Iterator[None]:
    """Run the other processes of a training while this one, the first, trains.

    Parameters
    ----------
    place : Place
        From `Place.first`. With several nodes they are started by SLURM's ``srun``.
    program : str
        What they execute, a line of Python; it calls `join`.
    job : mapping
        What `join` returns to them.

    Raises
    ------
    RuntimeError
        If one of them failed, so that this process could not go on.
    """
    if place.processes == 1:
        yield
        return
    others = [_start(command, place, job) for command in _commands(place, program)]
    leaving = threading.Event()
    for process in others:
        threading.Thread(target=_watch, args=(process, leaving), daemon=True).start()
    try:
        yield
        for process in others:
            process.wait()
    except RuntimeError as problem:
        if any(_failed(process) for process in others):
            text = "another process of this training failed, and said why on the console"
            raise RuntimeError(text) from problem
        raise
    finally:
        leaving.set()
        for process in others:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _commands(place: Place, program: str) -> list[list[str]]:
    python = [sys.executable, "-c", program]
    if place.nodes == 1:
        return [[*python, str(rank)] for rank in range(1, place.processes)]
    # Task 0 steps aside: the job's own process, on the first node, has its place.
    tasks = [f"--nodes={place.nodes}", f"--ntasks={place.processes}"]
    tasks += [f"--ntasks-per-node={place.per_node}", "--distribution=block"]
    return [["srun", "--overlap", "--wait=0", "--kill-on-bad-exit=1", *tasks, *python]]


def _start(command: list[str], place: Place, job: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    """Start a process and tell it what to do; its standard input stays open."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has failed already, and is watched
        process.stdin.write(json.dumps({"place": asdict(place), "job": job}).encode() + b"\n")
        process.stdin.flush()
    return process


def _watch(process: "subprocess.Popen[bytes]", leaving: threading.Event) -> None:
    """End this process in order if another has failed and this one waits for it in vain."""
    if process.wait() == 0 or leaving.wait(PATIENCE):
        return
    outcome = f"another process of this training failed with status {process.returncode}"
    logger.error("%s, and said why on the console", outcome)
    abandon(outcome)
    os._exit(1)


def _failed(process: "subprocess.Popen[bytes]") -> bool:
    """Say whether a process has failed; what it was connected to may notice a moment before."""
    deadline = time.monotonic() + 2
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(process.poll())


def join() -> tuple[Place, dict[str, Any]]:
    """Learn from the first process which place and job this one has; end when that one ends."""
    with open(0, "rb", buffering=0, closefd=False) as channel:
        told = json.loads(channel.readline())
    rank = int(sys.argv[1] if len(sys.argv) > 1 else os.environ["SLURM_PROCID"])
    if rank == 0:
        sys.exit(0)
    sys.excepthook = lambda kind, error, _: print(
        f"process {rank} of the training failed: {kind.__name__}: {error}", file=sys.stderr
    )
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    return replace(Place(**told["place"]), rank=rank), told["job"]


def leave() -> NoReturn:
    """End this process, which has done its part.

    At once: the threads of the connection may still let go of tensors, for which they need the
    interpreter, and an interpreter that ends waits for them.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_the_first() -> None:
    while os.read(0, 1):
        continue
    os._exit(1)
