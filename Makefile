# make demo       the main job on real Kafka, real Cassandra and real flights
# make test       the tests, in under five minutes
# make test-all   everything, the long chaos runs and the containers too
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-all lint bench clean
demo: $(VENV)/.installed
	$(BIN)/walstream demo $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/pytest -m "not slow and not docker" $(PYTEST)

test-all: $(VENV)/.installed-dev
	$(BIN)/pytest $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "walstream needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Say which one with: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python has no venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .walstream build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
