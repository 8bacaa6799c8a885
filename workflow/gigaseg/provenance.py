"""Which code made a result: one digest of a stage's script and all it imports.

Snakemake itself looks at the modification time of a script and not at the modules behind it. The
digest goes into every rule's ``params``, so a touched file or an edited comment reruns nothing, and
an edited function reruns the stages that can reach it.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"

# Modules that cannot change a result: what they do is said in a job's settings already, or it is
# only printed.
INERT = frozenset(
    f"gigaseg.{name}"
    for name in (
        "attempts",
        "lock",
        "logs",
        "pace",
        "provenance",
        "schema",
        "settings",
        "termination",
    )
)

# Fields of the syntax tree that only some versions of Python have, or that say nothing about what
# the code does.
_SKIPPED = frozenset({"type_params", "type_ignores", "type_comment", "kind", "ctx"})


@cache
def code(stage: str) -> str:
    """Return the digest of a stage's code, in hexadecimal.

    Parameters
    ----------
    stage : str
        Name of a script in ``workflow/scripts``, without its ending.

    Raises
    ------
    FileNotFoundError
        If there is no such script.
    """
    total = hashlib.sha256()
    for name, path in sorted(closure(SCRIPTS / f"{stage}.py").items()):
        total.update(f"{name} {_module_digest(path)}\n".encode())
    return total.hexdigest()


def closure(script: Path) -> dict[str, Path]:
    """Find every module of the library that a script can reach by imports, and the script.

    Returns
    -------
    dict of module name to file
        The script stands under its own file name. Imports inside functions count.
    """
    found, todo = {script.name: script}, [(script.name, script)]
    while todo:
        name, path = todo.pop()
        for target in sorted(_imports(name, path)):
            for module, file in _with_parents(target):
                if module not in found and module not in INERT:
                    found[module] = file
                    todo.append((module, file))
    return found


def canonical(node: object) -> str:
    """Write a syntax tree as text that is equal for code that does the same.

    Docstrings, comments, layout and everything empty are left out, and so are the fields that
    depend on the version of Python.

    Examples
    --------
    >>> one = ast.parse("def f(x):\\n    'Double.'\\n    return 2 * x  # twice")
    >>> two = ast.parse("def f( x ): return 2*x")
    >>> canonical(one) == canonical(two)
    True
    """
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(value, list):
            value = _without_docstring(node, value)
        elif isinstance(node, ast.JoinedStr):
            value = [part for part in value if not _is_empty_text(part)]
        if field not in _SKIPPED and value is not None and value != []:
            parts.append(f"{field}={canonical(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest] if isinstance(node, documented):
            return rest
    return body


def _is_empty_text(part: ast.expr) -> bool:
    """Recognise what some versions of Python put between the parts of an f-string."""
    return isinstance(part, ast.Constant) and part.value == ""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _module_digest(path: Path) -> str:
    return hashlib.sha256(canonical(_tree(path)).encode()).hexdigest()


@cache
def _imports(name: str, path: Path) -> frozenset[str]:
    """Name everything that a module imports; ``from a import b`` may mean the module ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name, path.name == "__init__.py")
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _absolute(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = name.split(".")
    kept = parents[: len(parents) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _with_parents(name: str) -> Iterator[tuple[str, Path]]:
    """Yield a module of the library and the packages around it, whose code runs with it."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return
    for length in range(1, len(parts) + 1):
        path = PACKAGE.joinpath(*parts[1:length])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield ".".join(parts[:length]), file
