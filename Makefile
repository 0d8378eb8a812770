PYTHON ?= python3
INSTALLED := .venv/.installed

SEEDS ?= 20000
FIRST ?= 0

.PHONY: help demo test test-lowest simulate faults up check

help:
	@echo 'make demo    the main job on embedded servers, shown and ended'
	@echo 'make up      the servers and the relay in the foreground, until Ctrl-C'
	@echo 'make test    the whole test suite; make test-lowest: with the lowest versions allowed'
	@echo 'make faults  servers killed, hung, cut and damaged under load; about a quarter of an hour'
	@echo 'make simulate   the protocol among faults in SEEDS worlds (SEEDS=200000, FIRST=0)'
	@echo 'make check   lint, format, types, import layers'
	@echo 'Each sets up .venv by itself. Another Python: make PYTHON=python3.12 ...'

demo: $(INSTALLED)
	@.venv/bin/configbus demo

up: $(INSTALLED)
	@.venv/bin/configbus up

test: $(INSTALLED)
	@.venv/bin/pytest -n 3

test-lowest: .venv-lowest/.installed
	@.venv-lowest/bin/pytest -n 3

faults: $(INSTALLED)
	@.venv/bin/pytest tests/faults -m 'long or not long'

simulate: $(INSTALLED)
	@PYTHONPATH=tests .venv/bin/python -m simulator $(SEEDS) --first $(FIRST)

check: $(INSTALLED)
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

# A .venv that is there is used; the stamp comes last, so an interrupted set-up starts again.
$(INSTALLED): pyproject.toml constraints.txt
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	        echo 'configbus needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.12 ...' >&2; exit 1; }; \
	    $(PYTHON) -m venv .venv; }
	@echo 'Installing into .venv; this is done once.' >&2
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	@$(PYTHON) -m venv .venv-lowest
	@echo 'Installing the lowest versions into .venv-lowest; this is done once.' >&2
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	@touch $@
