"""Jobs in containers and conda environments: what is asked for, and that the library is found.

An engine and a conda that note how they are called stand for real ones: the packages of a job are
those of the tests.
"""

import json
import os
import shutil
import sys
import sysconfig
from itertools import pairwise

import pytest

# Other software makes Snakemake draw the raw files again, too: here they stay, to be compared.
KEEP_RAW = ("--rerun-triggers", "mtime")

ENGINE = f"""\
#!{sys.executable}
import json, os, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("apptainer version 1.3.4"))
with open({{note!r}}, "a") as file:
    file.write(json.dumps([sys.argv[1:], os.environ["PYTHONPATH"]]) + "\\n")
os.execvp(sys.argv[-3], sys.argv[-3:])
"""


# Has the packages of the tests, and nothing that is installed for development, such as the library.
PYTHON = f"""\
#!/bin/sh
echo "${{PYTHONPATH-withheld}}" >> note
case "$1" in *.py)
    exec {sys.executable} -S -c 'import runpy, sys
sys.path.append("{sysconfig.get_path("purelib")}")
runpy.run_path(sys.argv[1], run_name="__main__")' "$@"
esac
exec {sys.executable} "$@"
"""

CONDA = f"""\
#!{sys.executable}
import json, shutil, sys
from pathlib import Path
if sys.argv[1:] == ["--version"]:
    print("conda 25.5.1")
elif sys.argv[1] == "info":
    print(json.dumps({{"conda_prefix": str(Path(__file__).parents[1]), "platform": "linux-64"}}))
elif sys.argv[1] == "config":
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif sys.argv[1:3] == ["env", "create"]:
    python = Path(sys.argv[sys.argv.index("--prefix") + 1], "bin", "python")
    python.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("job-python"), python)
elif sys.argv[1] != "clean":
    sys.exit(f"not known here: {{sys.argv}}")
"""


@pytest.fixture
def conda(tmp_path, monkeypatch):
    """Put a conda on the PATH whose environments have the packages of this one."""
    folder = tmp_path / "conda" / "bin"
    folder.mkdir(parents=True)
    for name, text in (("conda", CONDA), ("job-python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "activate").write_text('PATH="$1/bin:$PATH"\n')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Put an engine on the PATH, and the Python of its images; return where its calls are noted."""
    folder, note = tmp_path / "bin", tmp_path / "calls.jsonl"
    folder.mkdir()
    (folder / "apptainer").write_text(ENGINE.format(note=str(note)))
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return note


def test_jobs_run_in_the_image_and_find_the_library(run, engine):
    before = (run.folder / "results/convert/cells-0000.json").read_bytes()
    shutil.rmtree(run.folder / "results" / "convert")
    (run.folder / "gigaseg.sif").touch()
    run.edit("tiny.yaml", "network:", "container: gigaseg.sif\nnetwork:")
    done = run.snakemake("convert_all", *KEEP_RAW, "--sdm", "apptainer")
    assert done.returncode == 0, done.stdout
    assert (run.folder / "results/convert/cells-0000.json").read_bytes() == before
    calls = [json.loads(line) for line in engine.read_text().splitlines()]
    library = run.checkout / "workflow"
    scripts = [call for call, _ in calls if ".py" in call[-1]]
    assert sum("convert.py" in call[-1] for call in scripts) == 2
    for call, path in calls:
        options, image = call[:-4], call[-4]
        assert (options[0], image) == ("exec", "gigaseg.sif")
        assert options[options.index("--home") + 1] == str(run.folder)
        assert path.split(os.pathsep)[0] == str(library)
    for call in scripts:
        bound = [b.partition(":") for a, b in pairwise(call) if a == "--bind"]
        # Inside, Snakemake puts these places on the path of the script.
        assert any(source == str(library) and place for source, _, place in bound)


def test_containers_without_an_image_are_an_error(run, engine):
    done = run.snakemake("-n", "convert_all", "--sdm", "apptainer")
    assert done.returncode != 0
    assert "--sdm apptainer needs an image" in done.stdout
    assert not engine.exists()


@pytest.mark.usefixtures("conda")
def test_jobs_and_their_workers_find_the_library_from_a_conda_environment(run):
    before = (run.folder / "results/convert/cells-0000.json").read_bytes()
    shutil.rmtree(run.folder / "results" / "convert")
    (run.folder / "witness").unlink()
    run.edit("tiny.yaml", "network:", "dask: {workers: 2}\nnetwork:")
    done = run.snakemake("convert_all", *KEEP_RAW, "--sdm", "conda")
    assert done.returncode == 0, done.stdout
    assert (run.folder / "results/convert/cells-0000.json").read_bytes() == before
    # Snakemake keeps it from scripts in an environment, and puts the library on their path itself.
    assert {*(run.folder / "note").read_text().split()} == {"withheld"}
    imported = {*(run.folder / "witness").read_text().split()}
    assert imported == {str(run.checkout / "workflow" / "gigaseg" / "__init__.py")}
