# Every command creates the environment if it is absent, installs, and runs. It needs Python >= 3.11.
#   make demo     the main job on real data: SVI and BLR side by side
#   make test     lint, types, tests, examples, tutorials, documentation; last line: N passed, N failed
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Rewritten at each installation; newer than the files that say what to install.
STAMP := $(VENV)/installed.stamp

.DEFAULT_GOAL := help
.PHONY: help install demo test bench docs tutorials lint format clean

help:
	@echo "make demo | test | bench | docs | tutorials | lint | format | install | clean"

install: $(STAMP)

# torch goes first, alone, so that no other package's wish decides which build of it is taken.
# A virtual environment that exists (made by hand, or by an earlier version) is kept and brought up to date.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "pyro_blr needs Python 3.11 or newer: make PYTHON=python3.11")' \
	  && echo "Creating $(VENV)" && $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m demo

test: $(STAMP)
	@$(BIN)/python .ci/check.py

# The ten problems of docs/benchmarks.md have peers in environments of their own: `python -m benchmarks
# environments` makes them; a peer without one is left out. What is kept is not measured anew: --fresh.
bench: $(STAMP)
	@$(BIN)/python -m benchmarks; status=$$?; $(BIN)/python -m benchmarks page && exit $$status

docs: $(STAMP)
	@$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Some minutes: runs the tutorials in full, and stores the outputs that the documentation shows.
tutorials: $(STAMP)
	@$(BIN)/python .ci/tutorials.py

lint: $(STAMP)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: $(STAMP)
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

# The environment stays: remove $(VENV) by hand to start from nothing.
clean:
	rm -rf build dist *.egg-info docs/_build docs/.jupyter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
