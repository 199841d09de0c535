# make demo       the main job on real Kafka, real Cassandra and real flights; DEMO="--keep" hands on options
# make test       the tests, in under five minutes; PYTEST="-k dedup" hands on options
# make test-all   all tests: also the long chaos runs, and containers where a Docker engine answers
# make lint       ruff, mypy and the import rules
# make bench      walstream against what else one could take, in about an hour; BENCH="router --rounds 3" chooses a figure
# make clean      removes the virtual environment, data of local servers, and what tools keep
#
# Each makes its virtual environment (.venv) and installs what it needs into it. PYTHON=python3.13 chooses another Python.
VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The first that is new enough; where none is, python3, so that the message has a version to name.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done),python3)

# Two processes, each with servers of its own: most tests wait for a server or a worker most of the time.
# In the order of the folders (testpaths): the long ones first, and what is short fills up the end.
TOGETHER := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all lint bench clean
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed-demo
	$(BIN)/walstream demo $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/pytest $(TOGETHER) -m "not slow and not docker" $(PYTEST)

test-all: $(VENV)/.installed-dev
	$(BIN)/pytest $(TOGETHER) $(PYTEST)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(or $(BENCH),all)

# pip is what a virtual environment gets last: one without it was not finished.
$(BIN)/pip:
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON). On Debian and Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "walstream needs Python 3.11 or later, and $(PYTHON) is $$("$(PYTHON)" --version). Another one: make PYTHON=python3.13 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv. On Debian and Ubuntu: apt-get install $$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt walstream/wire/compiled.pyx | $(BIN)/pip
	@echo "Installing walstream and its libraries into $(VENV) ..."
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt walstream/wire/compiled.pyx | $(BIN)/pip
	@echo "Installing walstream, its libraries and its tools into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed-demo

clean:
	-@[ ! -x $(BIN)/walstream ] || $(BIN)/walstream local down 2>/dev/null
	-@[ ! -x $(BIN)/walstream ] || $(BIN)/walstream demo --stop 2>/dev/null
	rm -rf $(VENV) .walstream build dist *.egg-info walstream/wire/compiled.c walstream/wire/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
