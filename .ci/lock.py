"""Write requirements.lock: the versions in this environment of all that pyproject.toml asks for."""

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("test", "bench", "check", "slurm")

# pip chooses what belongs to the platform: installers, and the CUDA libraries of torch.
LEFT_TO_PIP = ("setuptools", "pip", "nvidia-", "cuda-", "triton")


def closure(requirements: list[str], python: str) -> dict[str, str]:
    """Return name and version of all that some requirements bring on a version of Python."""
    found: dict[str, str] = {}
    todo = [(Requirement(text), "") for text in requirements]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        where = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
        if (marker and not marker.evaluate(where)) or name.startswith(LEFT_TO_PIP):
            continue
        installed = distribution(name)
        found[name] = installed.version.partition("+")[0]  # no local version: +cpu is pip's choice
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in installed.requires or ()]
    return found


def main() -> None:
    """Write the lock; a package that only some versions of Python need gets a marker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra in EXTRAS:
        asked += project["optional-dependencies"][extra]
    per_python = {python: closure(asked, python) for python in PYTHONS}
    lines = []
    for name, version in sorted(set().union(*(found.items() for found in per_python.values()))):
        needed = [python for python in PYTHONS if name in per_python[python]]
        markers = " or ".join(f'python_version == "{python}"' for python in needed)
        lines.append(f"{name}=={version}" + ("" if len(needed) == len(PYTHONS) else f"; {markers}"))
    head = "# Tested versions, for `pip install -r`. Made by `make lock` on Python 3.11.\n"
    (ROOT / "requirements.lock").write_text(head + "\n".join(lines) + "\n")
    print(f"{len(lines)} packages", file=sys.stderr)


main()
