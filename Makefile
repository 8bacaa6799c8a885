# make run         the default run: samples drawn, a model trained, applied, scored, reported
# make test        the tests
# make test-heavy  the tests that take minutes each, such as runs killed at every kind of moment
# make test-slurm  the workflow on a SLURM cluster of one node, started for it
# make check       formatting, lint, types
# make bench       the benchmarks of the tests, with times
# make gigapixel   a plane of a gigapixel beside one of 64 megapixels: time and memory compared
# make lock        write requirements.lock from the versions in .venv
# make clean       remove .venv and what tools left behind; results and data stay
#
# PYTHON=python3.12 chooses the Python of .venv, TORCH=cpu spares the CUDA packages.

PYTHON ?= python3
TORCH ?= default
CORES ?= all

BIN := .venv/bin
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: run test test-heavy test-slurm check bench lock clean gigapixel
.DEFAULT_GOAL := run

run: .venv/installed
	$(BIN)/snakemake --cores $(CORES) all

test: .venv/installed
	$(BIN)/pytest -q -m "not heavy and not slurm"

test-heavy: .venv/installed
	$(BIN)/pytest -q -m heavy

test-slurm: .venv/installed
	$(BIN)/pytest -q -m slurm tests/slurm

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/pytest -q tests/benchmark --benchmark-enable --benchmark-only --benchmark-autosave

gigapixel: .venv/installed
	$(BIN)/snakemake --cores $(CORES) all --configfile config/gigapixel.yaml
	$(BIN)/python .ci/scaling.py results/gigapixel megapixels gigapixel

lock: .venv/installed
	$(BIN)/python .ci/lock.py

clean:
	rm -rf .venv .pytest_cache .hypothesis .mypy_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter first, so that an unsuitable one says so before anything is downloaded.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gigaseg needs Python 3.11 or later, and $(PYTHON) is" \
		  "$$($(PYTHON) --version 2>&1): make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.lock pyproject.toml
ifeq ($(TORCH),cpu)
	$(BIN)/pip install -q "$$(grep '^torch==' requirements.lock)" --index-url $(CPU_INDEX)
endif
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps -e .
	@touch $@
