# Every target needs only make and Python 3.11 or newer. The first one creates .venv; it is created
# again for another PYTHON or after this folder was moved, and updated when pyproject.toml changes.
# Programs run as modules (`python -m ruff`): the first line of a script in .venv/bin names its
# interpreter, which fails where the path of this folder contains a space.

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.aivideo-installed
CODE := $(wildcard aivideo tests examples benchmarks)
SEEDS ?= 2000
JOBS ?= 2
SECONDS ?= 600
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test slow check coverage soak outage kills rivals simulate-faults mutations format clean venv

help:
	@echo "make demo             twelve videos from the stand-in service, no API key needed"
	@echo "make test             make check, then all tests except the slow ones"
	@echo "make slow             tests that wait on the real clock: processes that are killed"
	@echo "make check            ruff (lint and format), mypy and pyright"
	@echo "make coverage         coverage of each module by its own test file"
	@echo "make outage           an hour of outage in four kinds, 10,000 jobs: how many end in doubt"
	@echo "make soak             20,000 jobs over six virtual hours, about a minute"
	@echo "make kills            a batch killed 30 times: what it paid, how unknown jobs were settled"
	@echo "make rivals           four processes run one batch whose manifest is edited; SECONDS=600 SEED=1"
	@echo "make simulate-faults  faults, crashes and torn disks drawn from seeds; SEEDS=10000 JOBS=2"
	@echo "make mutations        break each law of money: the simulation must notice"
	@echo "make format           format the code and apply ruff's fixes"
	@echo "make clean            remove .venv and all caches"
	@echo "Each target takes PYTHON=/path/to/another/python3 (3.11 or newer)."

demo: venv
	"$(PY)" -m aivideo demo

test: check
	"$(PY)" -W error -m pytest

slow: venv
	"$(PY)" -W error -m pytest -m slow

outage: venv
	"$(PY)" -m tests.simulated.outage_hour

soak: venv
	"$(PY)" -m tests.simulated.soak

kills: venv
	"$(PY)" -m tests.durable.kills

rivals: venv
	"$(PY)" -m tests.durable.rivals --seconds $(SECONDS) --seed $(SEED)

simulate-faults: venv
	"$(PY)" -m tests.simulated.faults --seeds $(SEEDS) --jobs $(JOBS)

mutations: venv
	"$(PY)" -m tests.simulated.mutations --jobs $(JOBS)

coverage: venv
	"$(PY)" -m tests.mirrored_coverage --jobs $(JOBS)

check: venv
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy --strict $(CODE)
	"$(PY)" -m pyright --pythonpath "$(PY)"

format: venv
	"$(PY)" -m ruff format .
	"$(PY)" -m ruff check --fix .

clean:
	rm -rf .venv .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find aivideo tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp names the interpreter and the folder that .venv was created for. It is written last, so
# that an interrupted installation is repeated. (The folder: an editable installation points to it.)
venv:
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "aivideo needs Python 3.11 or newer, and PYTHON is %d.%d: run make PYTHON=/path/to/a/newer/python3" % v[:2])'
	@made_for="$$("$(PYTHON)" -c 'import os, sys; print(ascii((sys.version, sys.base_prefix, os.getcwd())))')"; \
	if [ ! -x "$(PY)" ] || [ "$$(cat $(STAMP) 2>/dev/null)" != "$$made_for" ]; then \
		"$(PYTHON)" -m venv --clear .venv || exit; \
	elif [ ! pyproject.toml -nt $(STAMP) ]; then \
		exit 0; \
	fi; \
	rm -f $(STAMP); \
	"$(PY)" -m pip install --disable-pip-version-check --quiet --editable '.[dev]' && \
	printf '%s\n' "$$made_for" > $(STAMP)
