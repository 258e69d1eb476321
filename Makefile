# Everything sets itself up: Python 3.11 or newer with venv, and make, are all that is needed; the tests also need
# Node.js with npm, since gRPC of another language is among them.
#   make demo     three instances, the leader killed in mid-write, every acknowledged write checked
#   make test     the whole test suite
#   make test-long    what takes minutes a test; its results go to tests/records/ledger.jsonl
#   make check    ruff, mypy, layering, generated code
#   make sim SEEDS=200 FIRST=1      simulator runs; SEEDS=1 FIRST=n replays seed n
#   make explore-long STATES=1200000     all orders of what may happen to three instances, as far as so many states
#   make saboteurs-long FIRST=1000      a fresh search for each planted bug, 300 worlds each
#   make proto    generate the gRPC code again from proto/
#   make bench    the benchmarks

SHELL   := /bin/bash
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
NODE    := tests/conformance/js
NODE_READY := $(NODE)/node_modules/.ready
WORKERS ?= 3
SEEDS   ?= 200
FIRST   ?= 1
STATES  ?= 1200000
ARGS    ?=
# Property tests try what follows from the committed code, so that a red run stays red; pytest by itself takes chance.
CODE    := $(shell printf %d 0x$$(git rev-parse --short=8 HEAD:synchro 2>/dev/null || echo 1))
# Folders whose tests start real processes; tests/conftest.py marks them.
PROCESSES := tests/e2e tests/jepsen_like
# Where this is set, as in many images, each process compiles all that it imports: tests start over a thousand.
export PYTHONDONTWRITEBYTECODE :=
# The first of these that is new enough makes the virtual environment.
PYTHONS ?= python3.13 python3.12 python3.11 python3

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests demo test test-long check sim explore-long saboteurs-long proto bench clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

setup: $(READY)

# Made again only when pyproject.toml changes; the stamp is the last thing written.
$(READY): pyproject.toml
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
	  for python in $(PYTHONS); do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer with the venv module (tried: $(PYTHONS))." >&2; \
	    echo "next:  apt-get install python3 python3-venv   or   make PYTHONS=/path/to/python3" >&2; exit 1; \
	  fi; \
	  echo "creating $(VENV) with $$found ($$($$found --version))"; \
	  $$found -m venv $(VENV); \
	fi; \
	echo "installing synchro and its development tools into $(VENV)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $(READY)

# What the tests need of Node.js, as its lock file names it.
$(NODE_READY): $(NODE)/package-lock.json
	@set -e; \
	for command in node npm; do \
	  if ! command -v $$command >/dev/null; then \
	    echo "error: no $$command here: tests make calls with gRPC of Node.js." >&2; \
	    echo "next:  apt-get install nodejs npm   (Node.js 18 or newer)" >&2; exit 1; \
	  fi; \
	done; \
	echo "installing gRPC of Node.js into $(NODE)/node_modules"; \
	npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --loglevel=error; \
	touch $(NODE_READY)

setup-tests: $(READY) $(NODE_READY)

demo: $(READY)
	$(BIN)/synchro demo --script failover --once $(ARGS)

# Tests with real files, ports and processes mostly wait, so more of them run at a time than there are processors;
# those that measure time run alone.
test: $(READY) $(NODE_READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --hypothesis-seed=$(CODE) $(PROCESSES:%=--ignore=%) -m "not e2e and not long" $(ARGS)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "e2e and not alone and not long" $(PROCESSES) $(ARGS)
	$(BIN)/python -m pytest -q -m "e2e and alone and not long" $(PROCESSES) $(ARGS)

test-long: $(READY) $(NODE_READY)
	$(BIN)/python tools/long_run.py $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/unit/test_layering.py
	$(BIN)/buf lint proto
	$(BIN)/python tools/protogen.py --check

sim: $(READY)
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --first $(FIRST) $(ARGS)

explore-long: $(READY)
	$(BIN)/python -m tests.explore --all --states $(STATES) --ledger tests/records/ledger.jsonl $(ARGS)

saboteurs-long: $(READY)
	$(BIN)/python -m tests.saboteurs.hunt --first $(FIRST) --worlds 300 $(ARGS)

proto: $(READY)
	$(BIN)/python tools/protogen.py

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
