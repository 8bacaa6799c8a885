import ast
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from gigaseg import provenance
from gigaseg.provenance import canonical, closure, code

ROOT = Path(__file__).parents[2]

# Everything of the language whose tree differs between versions of Python, or might.
SAMPLE = '''
"""A module's docstring."""
from __future__ import annotations
import typing as t

T = t.TypeVar("T")
u = u"unicode" "joined" f"{1 + 1!r:>{10}} {{}} {{" f"{u'x'}" "y"
v = rb"raw" b"more"


@t.final
class C(t.Generic[T], metaclass=type):
    """A docstring."""
    x: int = 0
    y: "str"

    async def f(self, a, /, b: int = 1, *c, d, e=2, **g) -> None:
        "A docstring."
        async with a as b, c: pass
        async for i in a: yield i
        return


def g(x):
    def h(): "only a docstring"
    "not a docstring, but a statement"
    match x:
        case {"a": [1, *_], **rest} if rest: return lambda: (yield)
        case C(x=1) | None: x = -1j
        case _: ...
    try:
        del x[..., 1:2:3]
    except* (ValueError, OSError) as error:
        raise RuntimeError from error
    finally:
        global z
    while not (x := 1 if u else 2): break
    else: assert 1 < 2 <= 3, "text"
    return [*{a: b async for a, b in x if a}, {**x}, {1}, 1_000, 0x10, 1e3, True, b"b"]
'''

# Equal on Python 3.11, 3.12 and 3.13: what one computes on a laptop holds on the cluster.
SAMPLE_DIGEST = "87f5d81249b8a6d1a384dae331c7d164cca810f97c9ac4e408bc804346344a80"


def tree(text: str) -> str:
    return canonical(ast.parse(textwrap.dedent(text)))


def digest_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(canonical(ast.parse(text)).encode()).hexdigest()


def test_the_digest_does_not_depend_on_the_version_of_python():
    assert digest_of(SAMPLE) == SAMPLE_DIGEST


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("def f(x):\n    return x + 1  # one more\n", "a comment"),
        ("def f( x ):\n\n    return (x+1)\n", "the layout"),
        ('def f(x):\n    """Add."""\n    return x + 1\n', "a docstring"),
        ('"""A module."""\ndef f(x): return x + 1\n', "the module's docstring"),
    ],
)
def test_what_does_not_change_a_result_does_not_change_the_tree(other, why):
    assert tree("def f(x): return x + 1") == tree(other), why


@pytest.mark.parametrize(
    "other",
    [
        "def f(x): return x + 2",
        "def f(x): return x + 1.0",
        "def f(x): return x + True",
        "def f(x): return 1 + x",
        "def f(x, y=None): return x + 1",
        "def f(x): return x - 1",
        "def f(x: int): return x + 1",
        "async def f(x): return x + 1",
    ],
)
def test_what_may_change_a_result_changes_the_tree(other):
    assert tree("def f(x): return x + 1") != tree(other)


def test_a_text_that_is_no_docstring_counts():
    assert tree("x = 'a'") != tree("x = 'b'")
    assert tree("def f():\n    pass\n    'a'") != tree("def f():\n    pass\n    'b'")


@dataclass(frozen=True)
class Library:
    """A copy of the library that may be edited, and the digests of its stages before."""

    package: Path
    before: dict[str, str]

    def changed(self, edit: Callable[[], object]) -> set[str]:
        """Return the stages whose digest an edit of the fresh copy changes."""
        edit()
        after = digests()
        return {stage for stage in self.before if self.before[stage] != after[stage]}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Copy the library and take the digests of its stages, once for all tests."""
    top = tmp_path_factory.mktemp("library")
    for folder in ("gigaseg", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "workflow" / folder, top / folder, ignore=ignored)
    with pytest.MonkeyPatch.context() as patch:
        point(patch, top)
        return top, digests()


@pytest.fixture
def library(original, tmp_path, monkeypatch):
    """Make a copy of the library that may be edited, and point provenance to it."""
    top, before = original
    shutil.copytree(top, tmp_path, dirs_exist_ok=True)
    point(monkeypatch, tmp_path)
    yield Library(tmp_path / "gigaseg", before)
    forget()


def point(patch: pytest.MonkeyPatch, folder: Path):
    patch.setattr(provenance, "PACKAGE", folder / "gigaseg")
    patch.setattr(provenance, "SCRIPTS", folder / "scripts")


def forget():
    for function in (code, provenance._tree, provenance._module_digest, provenance._imports):
        function.cache_clear()


def digests() -> dict[str, str]:
    forget()
    stages = [path.stem for path in sorted(provenance.SCRIPTS.glob("*.py"))]
    return {stage: code(stage) for stage in stages}


def append(path: Path, text: str):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("watershed.py", {"split", "tune"}),
        ("tuning.py", {"tune"}),
        ("stages/tune.py", {"tune"}),
        ("weights.py", {"weigh", "train", "evaluate"}),
        # The report compares experiments by scores of resampled counts.
        ("warping.py", {"tune", "evaluate", "tabulate", "report"}),
        ("uncertainty.py", {"tabulate", "report"}),
        ("baseline.py", {"report"}),
        ("stages/split.py", {"split"}),
        ("stages/report.py", {"report"}),
        ("proof.py", {"report"}),
        ("layers.py", {"view"}),
        ("addresses.py", {"view", "report"}),
        ("seams.py", {"audit_seams"}),
        ("stages/audit.py", {"audit"}),
        ("stages/fetch.py", {"fetch"}),
        ("stages/verdict.py", {"verdict"}),
        ("logs.py", set()),
        ("settings.py", set()),
        ("provenance.py", set()),
        ("samples.py", set()),
        ("plan.py", set()),
    ],
)
def test_an_edit_reaches_the_stages_that_use_the_module(library, module, stages):
    assert library.changed(lambda: append(library.package / module, "\n_EDITED = 1\n")) == stages


def test_an_edited_network_reaches_training_and_prediction(library):
    edited = library.package / "unet.py"
    reached = library.changed(lambda: append(edited, "\n_EDITED = 1\n"))
    assert reached == {"train", "predict", "predict_open", "predict_part", "audit_seams"}


def test_a_comment_and_a_touch_reach_nothing(library):
    ledger = library.package / "ledger.py"
    assert library.changed(ledger.touch) == set()
    assert library.changed(lambda: append(ledger, "\n# A comment.\n")) == set()


def test_an_edit_of_the_package_itself_reaches_everything(library):
    package, everything = library.package / "__init__.py", set(library.before)
    assert library.changed(lambda: append(package, "\n_EDITED = 1\n")) == everything


def test_an_edited_script_reaches_its_stage(library):
    edited = library.package.parent / "scripts" / "convert.py"
    assert library.changed(lambda: append(edited, "\n_EDITED = 1\n")) == {"convert"}


def test_moving_a_function_to_another_module_is_an_edit(library):
    def rename():
        package, ledger = library.package, library.package / "ledger.py"
        (package / "lease.py").rename(package / "lease_of_life.py")
        ledger.write_text(ledger.read_text().replace("from .lease ", "from .lease_of_life "))

    assert "convert" in library.changed(rename)


def test_imports_within_functions_and_of_packages_are_followed(tmp_path, monkeypatch):
    package = tmp_path / "gigaseg"
    (package / "deep").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "one.py": "def f():\n    from . import two\n",
        "two.py": "import gigaseg.deep.three\n",
        "deep/__init__.py": "from ..four import x\n",
        "deep/three.py": "import numpy\n",
        "four.py": "x = 1\n",
        "unused.py": "",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    script = tmp_path / "script.py"
    script.write_text("from gigaseg.one import f\n")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    assert set(closure(script)) == {
        "script.py",
        "gigaseg",
        "gigaseg.one",
        "gigaseg.two",
        "gigaseg.deep",
        "gigaseg.deep.three",
        "gigaseg.four",
    }


def test_a_stage_without_a_script_is_an_error():
    with pytest.raises(FileNotFoundError):
        code("polish")
