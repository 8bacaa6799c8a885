"""A throw-away SLURM cluster of one node, all of it below one folder.

    python tests/slurm/throwaway.py FOLDER

prints one line of JSON: what the environment of a command needs (`environment`) and the name of the
`node`, or why there is no cluster (`problem`). It runs until standard input ends or the process is
told to stop; then all jobs and daemons are stopped. So it cannot outlive whoever started it,
however that ends.

The node has two GPUs that are none: SLURM hands out their numbers, and that is what is tested.
"""

import ctypes
import getpass
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PACKAGES = "slurmctld slurmd slurm-client munge"  # of Debian and Ubuntu
DEVICES = ("/dev/null", "/dev/zero")  # one for each GPU; SLURM wants device files, and any will do
MARK = "GIGASEG_TEST_CLUSTER"  # in the environment of all processes that belong to the cluster
STOP = (signal.SIGINT, signal.SIGTERM)
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
PATIENCE = 30.0  # seconds for a daemon to start, or to stop

# CPUs and memory are declared, not there: jobs of the tests need little of what they ask for. One
# that takes more memory than it asked for is killed, as on clusters. Jobs are told by their process
# groups, as linuxproc loses sight of what outlives its parent: a Snakemake that ignores SIGTERM.
CONFIG = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MailProg=/bin/true
ReturnToService=2
MinJobAge=3600
KillWait=10
CompleteWait=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=1-00:00:00 DefaultTime=10
PartitionName=gpu Nodes={host} MaxTime=1-00:00:00 DefaultTime=10
"""


class NoClusterError(Exception):
    """Why there is no cluster here."""


class Cluster:
    """The daemons, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.environment = {
            MARK: str(folder),
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def start(self) -> None:
        """Start everything and wait until the node is idle; NoClusterError if it never is."""
        path = self.environment["PATH"]
        missing = [n for n in (*DAEMONS, *COMMANDS) if shutil.which(n, path=path) is None]
        if missing:
            raise NoClusterError(
                f"there is no {', '.join(missing)} here: apt-get install {PACKAGES}"
            )
        _adopt()
        self._configure()
        own = f"--socket={self.folder}/munge.socket", f"--key-file={self.folder}/munge.key"
        logs = f"--log-file={self.folder}/munged.log", f"--pid-file={self.folder}/munged.pid"
        seed = f"--seed-file={self.folder}/munged.seed"
        self._launch("munged", "--foreground", "--force", *own, *logs, seed)
        self._wait((self.folder / "munge.socket").exists, "munged opens no socket")
        self._launch("slurmctld", "-D", "-i")
        self._launch("slurmd", "-D", "-N", _host())
        idle = ("sinfo", "--noheader", "--partition=cpu", "--format=%T")
        self._wait(lambda: self._call(*idle) == "idle", "the node does not become idle")

    def stop(self) -> None:
        """Stop the daemons, so that nothing more is started, then whatever else is there."""
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        _within(PATIENCE, lambda: not [_kill(p) for p in members(self.folder, os.getpid())])

    def _configure(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        facts = {"host": _host(), "user": getpass.getuser(), "ports": _free_ports(2)}
        text = CONFIG.format(folder=self.folder, gpus=len(DEVICES), **facts)
        (self.folder / "slurm.conf").write_text(text)
        gpus = [f"NodeName={_host()} Name=gpu File={d} Flags=nvidia_gpu_env" for d in DEVICES]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *gpus, ""]))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        # Snakemake's plugin hides all SLURM_ variables from the srun inside a job, and with them
        # where the configuration is. Elsewhere it lies in /etc/slurm.
        srun = self.folder / "bin" / "srun"
        real = shutil.which("srun", path=self.environment["PATH"])
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
        srun.chmod(0o755)

    def _launch(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("w") as output:
            self.daemons[name] = subprocess.Popen(
                [name, *arguments],
                env={**os.environ, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, condition, problem: str) -> None:
        alive = lambda: all(d.poll() is None for d in self.daemons.values())  # noqa: E731
        if not _within(PATIENCE, lambda: not alive() or condition()) or not alive():
            ended = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            name = (ended or [*self.daemons])[-1]
            files = [self.folder / f"{name}.{kind}" for kind in ("out", "log")]
            said = "".join(f.read_text(errors="replace") for f in files if f.exists())
            raise NoClusterError(f"{f'{name} ends' if ended else problem}: {said[-1000:]}")

    def _call(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()


def members(folder: Path, keeper: int) -> dict[int, str]:
    """Return all processes of a cluster, with their names; not its keeper, which started it.

    They are descendants of the keeper, among them what runs the jobs, and those that were given the
    environment of the cluster, such as who submits to it.
    """
    mark = f"{MARK}={folder}".encode()
    names, parents, found = {}, {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue  # gone, or somebody else's
        number, name, rest = re.fullmatch(r"(\d+) \((.*)\) (.*)\n", status, re.DOTALL).groups()
        state, parent, *_ = rest.split()
        if state != "Z":
            names[int(number)], parents[int(number)] = name, int(parent)
        if mark in environment.split(b"\0"):
            found.add(int(number))
    for process in names:
        line = [process]
        while line[-1] in parents and line[-1] != keeper:
            line.append(parents[line[-1]])
        if line[-1] == keeper:
            found.update(line)
    return {process: names[process] for process in found - {keeper} if process in names}


def _adopt() -> None:
    """Become the parent of orphans among the descendants: SLURM's daemons leave some."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise NoClusterError(f"prctl: {os.strerror(ctypes.get_errno())}")


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _within(seconds: float, condition) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _keep(signals: int) -> None:
    """Return when standard input ends or a signal says stop, and bury orphans until then.

    SLURM takes a job for running while its process group is there, be it that of a zombie.
    """
    while True:
        ready, *_ = select.select([sys.stdin, signals], [], [])
        if sys.stdin in ready or {*STOP} & {*os.read(signals, 4096)}:
            return
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue


def main(folder: Path) -> None:
    """Run a cluster until standard input ends."""
    signals, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (*STOP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    cluster = Cluster(folder)
    try:
        try:
            cluster.start()
        except NoClusterError as problem:
            print(json.dumps({"problem": str(problem)}), flush=True)
            return
        said = {"environment": cluster.environment, "keeper": os.getpid(), "node": _host()}
        print(json.dumps(said), flush=True)
        _keep(signals)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
