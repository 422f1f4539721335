# `make demo` and `make test` need python3 (3.11 or newer) and nothing else: they make their own
# .venv here, and make it again when pyproject.toml has changed or PYTHON is another version.
# Programs are started as modules (`python -m ruff`): a script in .venv/bin names its interpreter in
# its first line, which breaks where the path of this folder has a space.

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.aivideo-installed
CODE := $(wildcard aivideo tests examples benchmarks)
SEEDS ?= 2000
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test slow check coverage soak kills simulate-faults mutations format clean venv

help:
	@echo "make demo    twelve videos from the stand-in service, no key needed"
	@echo "make test    make check, then all tests but the slow ones: about four minutes"
	@echo "make slow    tests that wait long in real time: processes that are killed"
	@echo "make check   ruff (lint and format), mypy and pyright"
	@echo "make coverage   what the mirrored tests cover of each module"
	@echo "make soak    20,000 jobs over six virtual hours, about a minute"
	@echo "make kills   a batch, killed 30 times: what it paid, and how the unknowns were settled"
	@echo "make simulate-faults SEEDS=10000   faults, crashes and torn disks, drawn from seeds"
	@echo "make mutations   break each law of money: the seeds must see it"
	@echo "make format  let ruff write the code as make check wants it"
	@echo "make clean   remove .venv and all caches"
	@echo "Each takes PYTHON=/path/to/python3.12, say."

demo: venv
	"$(PY)" -m aivideo demo

test: check
	"$(PY)" -W error -m pytest

slow: venv
	"$(PY)" -W error -m pytest -m slow

soak: venv
	"$(PY)" -m tests.simulated.soak

kills: venv
	"$(PY)" -m tests.durable.kills

simulate-faults: venv
	"$(PY)" -m tests.simulated.faults --seeds $(SEEDS) --jobs $(JOBS)

mutations: venv
	"$(PY)" -m tests.simulated.mutations --jobs $(JOBS)

coverage: venv
	"$(PY)" -m tests.mirrored_coverage

check: venv
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy --strict $(CODE)
	"$(PY)" -m pyright --pythonpath "$(PY)"

format: venv
	"$(PY)" -m ruff format .
	"$(PY)" -m ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find aivideo tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp holds the version that .venv was made with, and is written last: an installation that
# broke off, or one of another Python, is made again.
venv:
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "aivideo needs Python 3.11 or newer, and PYTHON is %d.%d: run make PYTHON=/path/to/a/newer/python3" % v[:2])'
	@version="$$("$(PYTHON)" -c 'import sys; print(sys.version)')"; \
	if [ ! -x "$(PY)" ] || [ "$$(cat $(STAMP) 2>/dev/null)" != "$$version" ] || [ pyproject.toml -nt $(STAMP) ]; then \
		rm -f $(STAMP); \
		"$(PYTHON)" -m venv --clear .venv && \
		"$(PY)" -m pip install --disable-pip-version-check --quiet --editable '.[all,dev]' && \
		echo "$$version" > $(STAMP); \
	fi
