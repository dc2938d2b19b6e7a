# Every target does the set-up that it needs: a virtual environment in .venv with detframe and its tools.
#   make quickstart   train a small detector on generated pictures, on the CPU, and look at what it finds
#   make test         lint, types and the first tests of every part, in minutes (no GPU, no network once set up)
#   make test-medium  the further tests that a change must pass; .ci/run runs these after `make test`
#   make test-all     lint, types and all tests, the slow ones and those that need a GPU among them
#   make test-times   measure how long tests take (tests/times.json), from which follows which ones `make test` runs
#   make coverage     run all tests but those for a GPU, and see which lines of detframe they run: 80 % of every file
#   make docs         write docs/config_reference.md, the tables of MODEL_ZOO.md and drawings anew
#   make site         build the documentation as web pages: site/index.html
#   make release-check  build a release, install it into an empty environment and train three steps (TAG=v0.2.0)
# Another Python: make setup PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Two test processes of one thread each; more where there are cores: make test WORKERS=8
WORKERS ?= 2
# A worker that dies ends the run, with the name of its test: pytest-xdist would wait for it at the end
# Byte code is kept whatever the shell says, or every process would compile everything anew
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--max-worker-restart 0

.PHONY: help setup test test-medium test-all test-times coverage lint format quickstart docs site release-check clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   make/  make/p' Makefile

setup: $(STAMP)

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "detframe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name a newer one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing detframe, PyTorch and the tools into $(VENV): some gigabytes, a few minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps 'sahi>=0.12' 'trackers>=2.5'
	@touch $@

test: lint
	$(PYTEST) -m "not medium and not slow and not gpu"

test-medium: $(STAMP)
	$(PYTEST) -m "medium and not slow and not gpu"

test-all: lint
	$(PYTEST)

test-times: $(STAMP)
	$(PYTEST) -m "not slow and not gpu" --write-times
	@head -41 tests/times.json

coverage: $(STAMP)
	$(PYTEST) -m "not gpu" --cov --cov-report=json
	$(BIN)/python tools/check_coverage.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quickstart: $(STAMP)
	$(BIN)/python tools/quickstart.py

docs: $(STAMP)
	$(BIN)/python tools/make_docs.py
	$(BIN)/python tools/make_model_zoo.py
	$(BIN)/python tools/make_runs.py
	$(BIN)/python tools/draw_architecture.py

site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "To read it: $(BIN)/python -m http.server --directory site"

release-check: $(STAMP)
	$(BIN)/python tools/release.py --tag "$(TAG)"

clean:
	rm -rf $(VENV) site build dist detframe.egg-info .mypy_cache .pytest_cache .ruff_cache
