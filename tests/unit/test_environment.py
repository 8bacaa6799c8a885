import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_ask_for_the_same(project):
    wanted = [Requirement(text) for text in project["dependencies"]]
    pip = {f"{CONDA_NAMES.get(r.name, r.name)}{r.specifier}" for r in wanted}
    pip.add(f"python{project['requires-python']}")
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [item for item in listed if isinstance(item, str) and item != "pip"]
    conda += next(item["pip"] for item in listed if isinstance(item, dict))
    assert {normal(text) for text in conda} == {normal(text) for text in pip}


def normal(text: str) -> tuple[str, frozenset[str]]:
    requirement = Requirement(text)
    return requirement.name, frozenset(map(str, requirement.specifier))


def test_the_lock_satisfies_the_project(project):
    pins = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in LOCK}
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, asked):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_pins_public_versions():
    assert LOCK
    for requirement in LOCK:
        assert re.fullmatch(r"==[^+]+", str(requirement.specifier)), requirement


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_has_the_python_of_the_lock(project):
    lock = (ROOT / "requirements.lock").read_text()
    version = re.search(r"^FROM python:(\d+\.\d+)-", DOCKERFILE, re.MULTILINE)[1]
    assert version == re.search(r"on Python (\d+\.\d+)", lock)[1]
    assert f"{version}.0" in Requirement(f"python{project['requires-python']}").specifier


def test_the_image_installs_the_lock_and_nothing_else():
    installed = re.findall(r"pip install (.*?)(?: && |;|$)", DOCKERFILE.replace("\\\n", ""), re.M)
    assert [" ".join(line.split()).split(" --index-url")[0] for line in installed] == [
        "--no-cache-dir --no-deps",  # torch's CPU build, in the version of the lock
        "--no-cache-dir -r /opt/gigaseg/requirements.lock",
    ]
    assert "grep '^torch==' /opt/gigaseg/requirements.lock" in installed[0]
    copied = re.findall(r"^(?:COPY|ADD) (.*)", DOCKERFILE, re.MULTILINE)
    assert copied == ["requirements.lock /opt/gigaseg/requirements.lock"]
    # What a build sends to the engine: no data, no results, no secrets.
    assert (ROOT / ".dockerignore").read_text().split() == ["*", "!requirements.lock"]


def test_the_image_is_not_run_as_root():
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users == ["gigaseg"]
    assert "useradd --create-home gigaseg" in DOCKERFILE


def test_torch_for_cpus_comes_from_one_place():
    index = "https://download.pytorch.org/whl/cpu"
    assert f"CPU_INDEX={index}" in DOCKERFILE
    assert f"CPU_INDEX := {index}" in (ROOT / "Makefile").read_text()
