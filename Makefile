# `make demo` and `make test` need python3 (3.11 or newer) and nothing else: they make their own
# .venv here, once, and again when pyproject.toml has changed.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.aivideo-installed
CODE := $(wildcard aivideo tests examples benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test check soak kills simulate-faults mutations format clean

help:
	@echo "make demo    twelve videos from the stand-in service, no key needed"
	@echo "make test    everything that is checked: make check, then pytest"
	@echo "make check   ruff (lint and format), mypy and pyright"
	@echo "make soak    20,000 jobs over six virtual hours, about a minute"
	@echo "make kills   a batch, killed 30 times: what it paid, and how the unknowns were settled"
	@echo "make simulate-faults SEEDS=10000   faults, crashes and torn disks, drawn from seeds"
	@echo "make mutations                     break each law of money: the seeds must see it"
	@echo "make format  let ruff write the code as make check wants it"
	@echo "make clean   throw away .venv and all caches"

demo: $(STAMP)
	$(BIN)/aivideo demo

test: check
	$(BIN)/python -m pytest

soak: $(STAMP)
	$(BIN)/python -m tests.simulated.soak

kills: $(STAMP)
	$(BIN)/python -m tests.durable.kills

SEEDS ?= 2000
JOBS ?= 2

simulate-faults: $(STAMP)
	$(BIN)/python -m tests.simulated.faults --seeds $(SEEDS) --jobs $(JOBS)

mutations: $(STAMP)
	$(BIN)/python -m tests.simulated.mutations --jobs $(JOBS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(CODE)
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find aivideo tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp comes last: an install that broke off is done again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "aivideo needs Python 3.11 or newer, and $(PYTHON) is %d.%d: say make PYTHON=/path/to/a/newer/python3" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[all,dev]'
	@touch $@
