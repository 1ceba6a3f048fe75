# `make demo` runs the demo, `make test` the tests, `make check` the static checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Errors only, so that the output of the targets is not lost in pip's.
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore

.PHONY: demo test unit mutants attack chaos failover fuzz fuzz-parsers soak bench check audit sbom screenshots lock licenses vocabulary clean

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Patina needs Python 3.11 to 3.13; this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (only when requirements.lock or pyproject.toml has changed)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/patina demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

# Runs the tests that need no service, in seconds.
unit: $(STAMP)
	@$(BIN)/python -m pytest tests/unit $(ARGS)

# Kills processes and services at random under load, and checks that nothing is lost: ARGS="--rounds 50 --seed 1".
chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(ARGS)

# Runs the cluster of docs/deploy/cluster on hosts in network namespaces, and lets one host after the other fail: ARGS="--rounds 10 --seed 1".
failover: $(STAMP)
	@$(BIN)/python -m tests.failover $(ARGS)

# Posts malformed bodies to the webhook endpoints: ARGS="--bodies 100000 --seed 1".
fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Coverage-guided fuzzing of the webhook parsers: ARGS="-atheris_runs=1000000". Needs atheris.
fuzz-parsers: $(STAMP)
	@$(BIN)/python -m tests.fuzz_parsers $(ARGS)

# Replays hours of load as fast as possible, and checks that no resource grows: ARGS="--hours 2".
soak: $(STAMP)
	@$(BIN)/python -m tests.soak $(ARGS)

# Mutation testing: applies one fault at a time, and checks that a test fails: ARGS="--only overdue".
mutants: $(STAMP)
	@$(BIN)/python -m tests.mutants $(ARGS)

# Attacks a complete local installation, and measures the effect on another tenant: ARGS="--only export".
attack: $(STAMP)
	@$(BIN)/python -m tests.attack $(ARGS)

# Benchmarks relative to baselines of the same run; writes docs/performance.md: ARGS="--only reads --rounds 3".
bench: $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python -m scripts.vocabulary --top 0
	DATABASE_URL= EMBEDDED_SERVICES=1 PATINA_HOME=.patina/check $(BIN)/alembic upgrade head
	DATABASE_URL= EMBEDDED_SERVICES=1 PATINA_HOME=.patina/check $(BIN)/alembic check
	$(BIN)/python -m scripts.audit --may-be-offline

# Lists the words of the product's identifiers by frequency, and fails on banned ones: ARGS="--top 100".
vocabulary: $(STAMP)
	@$(BIN)/python -m scripts.vocabulary $(ARGS)

# Checks the locked packages for known vulnerabilities; fails without network access.
audit: $(STAMP)
	@$(BIN)/python -m scripts.audit

# Writes sbom.json: a CycloneDX bill of materials, including programs bundled in packages.
sbom: $(STAMP)
	@$(BIN)/python -m scripts.sbom

# Takes the screenshots of every page for the documentation. Needs Chromium.
screenshots: $(STAMP)
	@PATINA_SCREENSHOTS=1 $(BIN)/python -m pytest tests/browser/test_browser.py tests/browser/test_panel_browser.py

# Recompiles the locks, that of the benchmarks' peer too: names, versions and hashes, but no URLs. Needs `uv` on the PATH.
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links
lock:
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) bench/peers/dlt.in -o bench/peers/dlt.lock

# Writes docs/licenses.md: the licenses of all locked packages.
licenses: $(STAMP)
	@$(BIN)/python -m scripts.licenses > docs/licenses.md

clean:
	rm -rf $(VENV) .venv-* .patina build *.egg-info .mypy_cache .ruff_cache
