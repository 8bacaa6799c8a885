"""A project whose jobs can be held at a chosen moment, and the cluster that it runs on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import throwaway
import tiny

ROOT = Path(__file__).parents[2]

# Lot 0 is a and b, lot 1 is c and d; each sample is four blocks.
CONFIG = tiny.CONFIG.replace("prediction: {", "prediction: {jobs_per_sample: 2, ")
CONFIG += "view: {samples: none}\n"

# Loaded by every Python process at its start. HOLD lists moments, each by its name, the job's rule,
# a sample and a number n: the job stands still when it has the n-th block of that sample in hand,
# written and not yet recorded. It says so in a file, once, and goes on when another is there. A
# fifth word is how many MB of memory it takes meanwhile.
#
# The plugin waits longer after each look at the queue. Here every wait of the calling Snakemake is
# a second: it does the same, only sooner.
HOOKS = """
import os, sys, time

moments = [tuple(m.split()) for m in os.environ.get("HOLD", "").split(";") if m]
seen = dict.fromkeys(moments, 0)

def watch(event, arguments):
    if event != "open" or arguments[1] != "a+" or isinstance(arguments[0], int):
        return
    path = os.fsdecode(arguments[0])
    for moment in moments:
        name, rule, sample, number, *memory = moment
        if (
            f"/{sample}.ome.zarr/.gigaseg/ledger/" not in path
            or not sys.orig_argv[-1].endswith(f".{rule}.py")
            or os.path.exists(f"held-{name}")
        ):
            continue
        seen[moment] += 1
        if seen[moment] == int(number):
            with open("holding", "w") as file:
                file.write(os.environ["SLURM_JOB_ID"])
            os.rename("holding", f"held-{name}")
            taken = [b"x" * (int(mb) << 20) for mb in memory]
            while not os.path.exists(f"go-{name}"):
                time.sleep(0.01)

if moments:
    sys.addaudithook(watch)

if "SLURM_JOB_ID" not in os.environ and "-m" in sys.orig_argv:
    import asyncio

    sleep = asyncio.sleep

    async def short_sleep(seconds, *others):
        return await sleep(min(seconds, 1), *others)

    asyncio.sleep = short_sleep
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; see `throwaway`."""

    folder: Path
    environment: dict[str, str]
    keeper: int
    node: str

    def call(self, *command: str) -> str:
        """Return what a command of SLURM prints; it must succeed."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    def queue(self, *options: str) -> list[str]:
        """List the numbers of the jobs that have not ended."""
        return self.call("squeue", "--noheader", "--format=%A", *options).split()

    def resume(self) -> bool:
        """Take the node back into service, if it has not come back by itself; say whether it is."""
        if "down" in self.call("sinfo", "--noheader", "--partition=cpu", "--format=%T"):
            with suppress(subprocess.CalledProcessError):  # it has come back since
                self.call("scontrol", "update", f"NodeName={self.node}", "State=RESUME")
            return False
        return True

    def processes(self) -> dict[int, str]:
        """Return all processes of the cluster, with their names."""
        return throwaway.members(self.folder, self.keeper)

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return all jobs, those that have ended too, by their number."""
        keys = {"state": "%T", "partition": "%P", "memory": "%m", "start": "%S", "end": "%e"}
        form = "|".join(["%A", *keys.values()])
        lines = self.call("squeue", "--noheader", "--states=all", f"--format={form}").splitlines()
        rows = [line.split("|") for line in lines]
        return {row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}


@dataclass(frozen=True)
class Call:
    """A call of Snakemake."""

    process: subprocess.Popen
    console: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.console.read_text()

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        return self.process.wait()


# What docs/slurm.md has a user edit in the profile, for this cluster.
EDITS = {
    "  # slurm_partition: cpu": "  slurm_partition: cpu",
    "# train: {slurm_partition: gpu}": "train: {slurm_partition: gpu}",
    "{gpu: 1}": "{gpu: 1, slurm_partition: gpu}",
}


@dataclass(frozen=True)
class Project:
    """A working directory, and Snakemake in it."""

    folder: Path
    environment: dict[str, str]
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, environment: dict[str, str]) -> "Project":
        """Write config, sheet, profile and hooks."""
        (folder / "hooks").mkdir(parents=True)
        (folder / "hooks" / "sitecustomize.py").write_text(HOOKS)
        (folder / "tiny.yaml").write_text(CONFIG)
        (folder / "samples.tsv").write_text(tiny.SHEET)
        profile = (ROOT / "profiles" / "slurm" / "config.yaml").read_text()
        for old, new in EDITS.items():
            assert old in profile, f"{old!r} is no longer in the profile"
            profile = profile.replace(old, new)
        (folder / "profile").mkdir()
        (folder / "profile" / "config.yaml").write_text(profile)
        return cls(folder, environment)

    def start(self, *arguments: str, hold: str = "") -> Call:
        """Call Snakemake, with jobs to be held at these moments."""
        console = self.folder / f"console-{len(self.calls)}.txt"
        own = {"HOLD": hold, "PYTHONPATH": str(self.folder / "hooks"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *arguments]
        with console.open("w") as output:
            process = subprocess.Popen(
                [*command, "--configfile", "tiny.yaml"],
                cwd=self.folder,
                env={**os.environ, **self.environment, **own},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )
        self.calls.append(Call(process, console))
        return self.calls[-1]

    def submit(self, *arguments: str, hold: str = "") -> Call:
        """Call Snakemake as on a cluster, for everything."""
        return self.start("all", "--workflow-profile", "profile", *arguments, hold=hold)

    def close(self) -> None:
        """End what still runs, after a failure."""
        for call in self.calls:
            if call.process.poll() is None:
                os.killpg(call.process.pid, signal.SIGKILL)
                call.wait()

    def held(self, name: str, call: Call) -> str:
        """Wait until a job is held; return its number."""
        wait_until((self.folder / f"held-{name}").exists, call)
        return (self.folder / f"held-{name}").read_text()

    def release(self, name: str) -> None:
        """Let a held job go on."""
        (self.folder / f"go-{name}").touch()

    def log(self, path: str) -> str:
        """Return the log of a job, empty if it has not begun."""
        log = self.folder / "results" / "logs" / f"{path}.log"
        return log.read_text() if log.exists() else ""


def _heed_interrupts() -> None:
    """Undo what a shell does to commands in the background, so that Ctrl-C works there, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(condition: Callable[[], object], call: Call | None = None) -> None:
    """Wait for something that others do; fail if a call that must live meanwhile ends."""
    while not condition():
        assert call is None or call.process.poll() is None, call.text
        time.sleep(0.05)
