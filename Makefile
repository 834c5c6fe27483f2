# make demo | make test | make test-long | make check | make bench | make soak SEEDS=2000
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SEEDS ?= 2000
# Set when the interpreter of the environment is gone, or is no longer of the version that its packages are for.
STALE := $(shell [ ! -e $(VENV) ] || $(BIN)/python -c 'import os, sysconfig; os.stat(sysconfig.get_path("purelib"))' 2>/dev/null || echo stale)
HAS_PIP = $(BIN)/python -c 'import pip' 2>/dev/null || { echo "$(VENV) has no pip: it was left half made, or by another tool. Remove it (make clean) and try again" >&2; exit 1; }

.PHONY: stale install install-dev demo test test-long unit check fmt bench soak clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

stale:
	@echo "removing $(VENV): its Python is gone or has changed"
	@rm -rf $(VENV)

$(BIN)/python: $(STALE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "runnerd needs Python 3.11 or newer; name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -c 'import sys; sys.exit("no virtual environment could be made; on Debian and Ubuntu: apt install python{}.{}-venv".format(*sys.version_info))'; }

$(VENV)/.installed: setup.cfg pyproject.toml $(STALE) | $(BIN)/python
	@$(HAS_PIP)
	@echo "installing runnerd and what it needs"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -e .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml $(STALE) | $(BIN)/python
	@$(HAS_PIP)
	@echo "installing runnerd with what its tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/runnerd demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q --durations=8 tests/unit tests/contract tests/simulation
	$(BIN)/python -m pytest -q --durations=8 -m "not long" tests/e2e

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --durations=8 -m long tests/e2e

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/unit

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/towncrier build --draft --version next >/dev/null
	$(BIN)/python -m pytest -q tests/unit/store/test_schema.py tests/unit/config/test_examples.py tests/unit/test_language.py

fmt: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.bench $(ARGS)

soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.simulation.soak --seeds $(SEEDS)
	$(BIN)/python -m tests.simulation.soak --clouds --seeds $$(( $(SEEDS) / 5 ))

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .demo
