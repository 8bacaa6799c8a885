import json
import subprocess
import sys

import pytest
import throwaway
from projects import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """Run a cluster for the session; skip what needs it where there can be none."""
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    with subprocess.Popen(
        [sys.executable, throwaway.__file__, str(folder)],
        stdin=subprocess.PIPE,  # its end is the cluster's
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        said = json.loads(keeper.stdout.readline())
        if "problem" in said:
            pytest.skip(f"no SLURM cluster: {said['problem']}")
        yield Cluster(folder, **said)
