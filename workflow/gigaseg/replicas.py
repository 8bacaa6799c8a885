"""Several processes that train one network: which of them this one is."""

from dataclasses import dataclass

from lightning.fabric.plugins.environments import ClusterEnvironment


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
