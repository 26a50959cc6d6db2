# bundlecache: `make demo` shows the whole of it, `make test` checks it. Both need only Python 3.10-3.13 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs quick-bench data base clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip compiles the 20,000 modules of all packages one after another, which takes half of its time: compiled on all cores instead.
PIP     := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
COMPILE := @$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # packages hold files that are no valid code

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[cpu,serve]'
	@$(BIN)/python -c 'import bundlecache as b; b.torchvision_compat.install_in()'  # for programs without bundlecache
	$(COMPILE)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[cpu,serve,dev]'
	$(COMPILE)
	@touch $@

demo: $(VENV)/installed  ## the whole way on the shipped data: encode, train, evaluate, report (under 3 minutes of two free cores)
	$(BIN)/bundlecache demo

test: $(VENV)/installed-dev  ## all tests (a few minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick-bench: $(VENV)/installed  ## every benchmark in its short form
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script --quick; done

docs: $(VENV)/installed  ## write docs/cli.md from --help
	$(BIN)/typer bundlecache.cli utils docs --name bundlecache --output docs/cli.md

data: $(VENV)/installed  ## make the demo catalogue in data/ again, from its seed
	$(BIN)/bundlecache demo --make-data data

base: $(VENV)/installed  ## pretrain the embedded base again, from its seed (a quarter of an hour)
	$(BIN)/python -m bundlecache.train.pretrain --out train/embedded

clean:  ## remove what the commands made, keep the inputs and the environment
	rm -rf data/store data/questions data/candidates data/runs data/bench data/ablations data/splits.parquet .pytest_cache .mypy_cache .ruff_cache
