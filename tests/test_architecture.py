"""The design, enforced: who may import whom, sizes, docstrings, and the form of the rules."""

import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "workflow" / "gigaseg"
MODULES = sorted(LIBRARY.rglob("*.py"))
SCRIPTS = sorted((ROOT / "workflow" / "scripts").glob("*.py"))
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))

# Every module belongs to one group.
GROUPS = {
    # functions of arrays and numbers
    "pure": "geometry labels weights deformation watershed rand warping matching augmentation "
    "classes curves distances faces faults forest forecast fragments instances intensity memory "
    "grids levels lookup mosaics objects panes phantoms remarks resampling sampling scores "
    "semantics stitching tiling tuning seams uncertainty bands maps relaxation thinning "
    "calibration offsets measures sizing centres tally inventory nearest scales",
    # what was done, by whom, from what; nothing beyond the standard library
    "books": "ledger lease manifests fingerprints disk benchmarks models allocations jsonlines "
    "pace",
    "network": "unet nested fcn networks runtime lanes patches rendering averaging optimisation "
    "checkpoints replicas training inference depths loading ensembles",
    "blocks": "blockwise cluster cuts flooding splitting workers",
    "stores": "volumes pyramids shards ome digests census planes",
    "input": "headers readers sources segments survey tiffs truth lessons",
    "page": "addresses choices figures layers outlook views viewer sections pictures summaries "
    "comparison charts spreads foresight glossary proof page baseline headlines pairs scoretable "
    "standings scoreboard modelcards crossed",
    "workflow": "settings schema samples folds lineage roster plan briefs provenance logs lock "
    "termination attempts",
}
IMPORTABLE = {
    "pure": {"pure"},
    "books": {"books"},
    "network": {"network", "books", "pure"},
    "blocks": {"blocks", "books", "pure"},
    "stores": {"stores", "books", "pure"},
    "input": {"input", "stores", "blocks", "books", "pure"},
    "page": {"page", "stores", "books", "pure"},
    "workflow": {"workflow", "books", "pure"},
    "stages": {"stages", "page", "input", "stores", "blocks", "books", "network", "pure"},
}

# Packages and the groups or modules that may import them.
PACKAGES = {
    "numpy": {*IMPORTABLE} - {"books", "workflow"},
    "scipy": {"pure", "page"},
    "numba": {"weights", "watershed", "distances", "forest", "stitching", "objects"}
    | {"labels", "lookup", "relaxation", "thinning", "warping", "matching", "intensity"}
    | {"calibration", "measures", "nearest", "offsets"},
    "torch": {"network"},
    "lightning": {"training", "replicas"},
    "safetensors": {"checkpoints", "loading"},
    "dask": {"blocks"},
    "distributed": {"blocks"},
    "zarr": {"stores", "input"},
    "zarrs": {"stores"},
    "google_crc32c": {"shards"},
    "numcodecs": {"shards"},
    "ome_zarr_models": {"ome"},
    "tifffile": {"input"},
    "imagecodecs": {"input"},
    "PIL": {"input", "page"},
    "pandas": {"page", "stages"},
    "matplotlib": {"page"},
    "jinja2": {"page"},
    "pooch": {"stages.fetch"},
    "jsonschema": {"schema"},
    "yaml": {"schema"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def group_of(name: str) -> str:
    if name.split(".")[0] == "stages":
        return "stages"
    return next((group for group, members in GROUPS.items() if name in members.split()), "")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Return the third-party packages and the modules of the library that a module imports."""
    packages, own = set(), set()
    known = {name_of(p) for p in MODULES} - {""}
    here = ("gigaseg", *path.relative_to(LIBRARY).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = here[: len(here) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "gigaseg":
                own |= {rest} & known
            elif first not in sys.stdlib_module_names:
                packages.add(first)
    return packages, own


def code_lines(path: Path) -> int:
    """Count the lines that hold code: no docstrings, comments or blank lines."""
    tree = ast.parse(path.read_text())
    texts = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(path.read_text().splitlines(), start=1)
    return sum(bool(s.strip()) and s.strip()[0] != "#" and n not in texts for n, s in lines)


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.walk(ast.parse(path.read_text()))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_length(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


# -------------------------------------------------------------------------------------- the library


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    name = name_of(path)
    if not name:
        assert imports(path) == (set(), set())
        return
    group = group_of(name)
    assert group, f"{name} belongs to no group: say where it belongs"
    packages, own = imports(path)
    for package in packages:
        assert package in PACKAGES, f"{package} is a new dependency: say who may import it"
        assert PACKAGES[package] & {name, group}, f"{name} may not import {package}"
    for other in own:
        assert group_of(other) in IMPORTABLE[group], f"{name} may not import {other}"


def test_the_table_names_modules_that_exist():
    named = {name for members in GROUPS.values() for name in members.split()}
    assert named - {name_of(path) for path in MODULES} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_about_one_thing(path):
    assert code_lines(path) <= 300


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_on_a_screen_and_takes_few_arguments(path):
    for function in functions(path):
        where = f"{name_of(path)}.{function.name}"
        assert body_length(function) <= 40, where
        assert len(function.args.posonlyargs + function.args.args) <= 6, where


def test_most_functions_are_short():
    lengths = [body_length(function) for path in MODULES for function in functions(path)]
    assert statistics.median(lengths) <= 10


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    kinds = ast.FunctionDef | ast.ClassDef
    top = [node for node in tree.body if isinstance(node, kinds)]
    classes = [node for node in top if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    methods = [node for c in classes for node in c.body if isinstance(node, ast.FunctionDef)]
    public = [node for node in [*top, *methods] if not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.stem)
def test_no_blanket_except(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            tidies_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert caught not in ("", "Exception", "BaseException") or tidies_up


def test_metrics_and_settings_load_without_the_heavy_packages():
    heavy = ("torch", "lightning", "zarr", "dask", "distributed", "matplotlib", "pandas")
    code = (
        "import sys, gigaseg.rand, gigaseg.matching, gigaseg.warping, gigaseg.plan\n"
        f"assert not [n for n in {heavy} if n in sys.modules], list(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


# ------------------------------------------------------------------------------------- the workflow


def rules() -> dict[str, str]:
    """Return the text of every rule by its name."""
    found = {}
    for path in RULES:
        text = path.read_text().replace(
            'rule:\n        name:\n            f"phantom_', "rule phantom:"
        )
        for part in re.split(r"^ *rule ", text, flags=re.MULTILINE)[1:]:
            found[part.partition(":")[0]] = part
    return found


JOBS = {name: text for name, text in rules().items() if "script:" in text}


def test_one_word_per_step():
    assert {path.stem for path in SCRIPTS} == JOBS.keys()
    stages = {path.stem for path in (LIBRARY / "stages").glob("[a-z]*.py")}
    assert stages == JOBS.keys()


@pytest.mark.parametrize("name", JOBS)
def test_a_rule_says_everything_about_its_job(name):
    text = JOBS[name]
    # A forecast is an answer: it leaves nothing, and so it runs whenever it is asked for.
    traces = () if name == "forecast" else ("output:", "benchmark:")
    for directive in (*traces, "log:", "conda:", "resources:", "message:"):
        assert directive in text, directive
    assert f'code=code("{name}")' in text
    assert "settings=" in text
    assert f'"../scripts/{name}.py"' in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_only_passes_on(path):
    assert len(path.read_text().splitlines()) <= 20
    assert "\nlogs.start_script(snakemake)\n" in path.read_text()
    # Snakemake puts its preamble before the script, where this import may not stand.
    assert "__future__" not in path.read_text()


def test_the_snakefile_is_short():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 60


def test_profiles_agree_on_the_common_keys():
    texts = [(ROOT / "profiles" / p / "config.yaml").read_text() for p in ("default", "slurm")]
    pattern = re.compile(r"# --- common ---\n(.*?)# --- end of common ---", re.DOTALL)
    first, second = (pattern.search(text)[1] for text in texts)
    assert first == second
    assert yaml.safe_load(first) == {
        "rerun-triggers": ["mtime", "params", "input", "software-env"],
        "rerun-incomplete": True,
        "nolock": True,
        "keep-going": True,
    }
    assert "gpu=1" in texts[0]
    assert "gpu=1" not in texts[1]  # on a cluster it would let one GPU job run at a time


def test_every_schema_refuses_unknown_keys():
    def sections(schema):
        if isinstance(schema, dict):
            if schema.get("type") == "object" or "object" in schema.get("type", ()):
                yield schema
            for part in schema.values():
                yield from sections(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from sections(part)

    for path in (ROOT / "workflow" / "schemas").glob("*.yaml"):
        found = list(sections(yaml.safe_load(path.read_text())))
        assert found
        assert all("additionalProperties" in section for section in found)
