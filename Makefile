# `make demo` shows the main job, `make test` proves it, `make check` reads the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Errors only: a newcomer is to see what is ours.
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore

.PHONY: demo test mutants attack chaos fuzz fuzz-parsers soak bench check audit sbom pictures lock licences clean

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Patina needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (once, and again when requirements.lock changes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/patina demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

# Kills processes and services at random under load, and looks whether anything was lost: ARGS="--rounds 50 --seed 1".
chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(ARGS)

# Posts bodies to the receivers as no vendor would: ARGS="--bodies 100000 --seed 1".
fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Fuzzes the receivers' parsers by coverage: ARGS="-atheris_runs=1000000". Needs atheris.
fuzz-parsers: $(STAMP)
	@$(BIN)/python -m tests.fuzz_parsers $(ARGS)

# Plays some hours as fast as they are taken, and looks whether anything grows: ARGS="--hours 2".
soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(ARGS)

# Breaks the product on purpose, one break at a time, and looks whether the tests notice: ARGS="--only overdue".
mutants: $(STAMP)
	@$(BIN)/python -m tests.mutants $(ARGS)

# Attacks a whole installation on this machine, and measures what another tenant notices: ARGS="--only export".
attack: $(STAMP)
	@$(BIN)/python -m tests.attack $(ARGS)

# Measures speed against yardsticks of the same run, and writes docs/performance.md: ARGS="--only reads --rounds 3".
bench: $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	DATABASE_URL= EMBEDDED_SERVICES=1 PATINA_HOME=.patina/check $(BIN)/alembic upgrade head
	DATABASE_URL= EMBEDDED_SERVICES=1 PATINA_HOME=.patina/check $(BIN)/alembic check
	$(BIN)/python -m tests.audit --may-be-offline

# Known vulnerabilities of what the lock names; fails where nobody answers.
audit: $(STAMP)
	@$(BIN)/python -m tests.audit

# Writes sbom.json: a bill of materials in CycloneDX, the programs within packages included.
sbom: $(STAMP)
	@$(BIN)/python -m tests.sbom

# Takes the pictures of every page anew, for the documentation. Needs a Chromium.
pictures: $(STAMP)
	@PATINA_PICTURES=1 $(BIN)/python -m pytest tests/test_browser.py tests/test_panel_browser.py

# Recompiles the lock: names, versions and hashes, no address. Needs `uv` on the PATH.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

# Lists the licences of everything in the lock, anew after it changed.
licences: $(STAMP)
	@$(BIN)/python -m tests.licences > docs/licences.md

clean:
	rm -rf $(VENV) .venv-* .patina build *.egg-info .mypy_cache .ruff_cache
