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
