import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[2]

# Every import of the library says where it was found.
WITNESS = "\nimport os\nopen(os.environ['WITNESS'], 'a').write(__file__ + '\\n')\n"


@dataclass(frozen=True)
class Run:
    """A working directory beside a checkout, and Snakemake in it."""

    checkout: Path
    folder: Path

    def snakemake(self, *arguments: str, configfile: bool = True) -> subprocess.CompletedProcess:
        """Run Snakemake; stdout and stderr come back together."""
        command = [sys.executable, "-m", "snakemake", "-s", str(self.checkout / "Snakefile")]
        command += ["--cores", "2", *arguments]
        command += ["--configfile", "tiny.yaml"] if configfile else []
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "WITNESS": str(self.folder / "witness"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pending(self, *arguments: str) -> dict[str, int]:
        """Return the jobs that a real dry run would do, by rule."""
        done = self.snakemake("-n", *arguments)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return {}
        table = done.stdout.split("Job stats:")[1].split("total")[0]
        return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    def edit(self, file: str | Path, old: str, new: str) -> None:
        """Replace a text that must be there in a file of the working directory or checkout."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new))


def check_out(target: Path) -> Path:
    """Copy what a clone of the repository would hold and a run needs."""
    for name in ("workflow", "config", "profiles", "resources"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, target / name)
    return target


def prepare(top: Path) -> Run:
    """Set up a tiny run of everything, from a copy of the checkout that is not installed."""
    run = Run(check_out(top / "checkout"), top / "work")
    package = run.checkout / "workflow" / "gigaseg" / "__init__.py"
    package.write_text(package.read_text() + WITNESS)
    run.folder.mkdir()
    (run.folder / "tiny.yaml").write_text(tiny.CONFIG)
    (run.folder / "samples.tsv").write_text(tiny.SHEET)
    return run


@pytest.fixture
def fresh(tmp_path):
    """Set up a run of which nothing is done yet."""
    return prepare(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Make a tiny run of everything."""
    run = prepare(tmp_path_factory.mktemp("workflow"))
    done = run.snakemake()
    assert done.returncode == 0, done.stdout
    (run.folder / "console.txt").write_text(done.stdout)
    return run


@pytest.fixture
def run(finished, tmp_path):
    """Copy the finished run with its checkout, to be edited; times of files are kept."""
    shutil.copytree(finished.checkout.parent, tmp_path / "copy", symlinks=True)
    return Run(tmp_path / "copy" / "checkout", tmp_path / "copy" / "work")
