# The same commands by hand and in CI. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
RECIPE ?= demo
WORKSPACE ?= ./workspace

BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help setup check test demo serve bench drills audit clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(STAMP)  ## make .venv with the pinned versions (skipped while nothing changed)

# The stamp is written last, so an install that failed or was interrupted leaves none.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@command -v '$(PYTHON)' >/dev/null || { \
		echo "setup: '$(PYTHON)' is not a command; name a Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "setup: expected Python 3.11, 3.12 or 3.13, got $$('$(PYTHON)' --version 2>&1); name one: make setup PYTHON=python3.12" >&2; \
		exit 1; }
	'$(PYTHON)' -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[samples,dev]'
	@touch $@

check: setup  ## format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup check  ## check, then the whole test suite with the doctests
	$(BIN)/python -m pytest

demo: setup  ## logs to a live endpoint on sample data, in ./workspace
	$(BIN)/nextray demo

serve: setup  ## serve the promoted release of WORKSPACE (default ./workspace) with RECIPE (demo)
	$(BIN)/python -m jobs.serve $(RECIPE) --workspace '$(WORKSPACE)'

# Without a WORKSPACE of the caller's own, a release is made of a synthetic shop.
bench: setup  ## the benchmarks (of WORKSPACE, if one is named): longer than a test may take
	$(BIN)/python -m pytest tests/benchmarks -q -s \
		$(if $(filter command environment,$(origin WORKSPACE)),--workspace '$(WORKSPACE)')

drills: setup  ## the chaos drills: kill parts of a running system and count what is lost
	$(BIN)/python -m pytest tests/chaos -s

# pip-audit is no part of the pinned tools: it is to be as new as what it asks.
audit: setup  ## ask the public feed of vulnerabilities about every pinned version
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m tests.security.audit

clean:  ## remove .venv, caches and build folders; a workspace is never touched
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
