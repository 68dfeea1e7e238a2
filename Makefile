# Set-up, checks, tests and the demo. `make demo` and `make test` work on a fresh machine.

PYTHON ?= $(shell for v in 3.13 3.12 3.11; do \
	if python$$v -c 'import sys, venv, ensurepip' >/dev/null 2>&1; then echo python$$v; exit; fi; done; \
	if python3 -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1; then echo python3; fi)
VENV := .venv
BIN := $(VENV)/bin
HOME_OF_DEMO := .demo

.DEFAULT_GOAL := help
.PHONY: help setup demo nano test check format slow bench lock wheel clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "No suitable Python found: install Python 3.11, 3.12 or 3.13 with its venv module" >&2; \
		echo "  macOS:          brew install python@3.13" >&2; \
		echo "  Debian, Ubuntu: apt-get install python3 python3-venv (3.11 or newer)" >&2; \
		echo "or say where it is: make PYTHON=/path/to/python3.13" >&2; exit 1; fi
	@echo "Setting up $(VENV) with $(PYTHON) (once; a few minutes) ..." >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready ## Create .venv from the lock file.

demo: setup ## Compile the ticket triage example on the embedded model.
	@DSPY_TK_HOME=$${DSPY_TK_HOME:-$(HOME_OF_DEMO)} $(BIN)/dspy-tk compile examples/ticket_triage

TOKENS ?= 50000000
NANO ?= recipes/nano/runs
nano: setup ## Make the embedded model again (hours; call it again to go on). TOKENS=50000000
	@$(BIN)/python recipes/nano/make.py --out $(NANO) --tokens $(TOKENS)

test: setup ## Run the tests.
	@$(BIN)/python -m pytest -m "not slow"

slow: setup ## Run the slow tests too.
	@$(BIN)/python -m pytest

check: setup ## Check format, lint and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup ## Format the code and sort its imports.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

wheel: setup ## Build the wheel into dist/.
	@$(BIN)/python -m build --no-isolation --wheel

bench: setup ## Measure engine and server beside their peers and write the tables in docs.
	@$(BIN)/python -m benchmarks.engine --models embedded,50m --json benchmarks/results/engine.json
	@$(BIN)/python -m benchmarks.engine --models 500m --rounds 1 --calls 16 --concurrent 16 \
		--json benchmarks/results/engine.json
	@$(BIN)/python -m benchmarks.compile_race --json benchmarks/results/engine.json
	@$(BIN)/python -m benchmarks.call_overhead --json benchmarks/results/call_overhead.json
	@$(BIN)/python -m benchmarks.engine_table benchmarks/results/engine.json docs/engine.md
	@for only in beside overhead cache; do \
		$(BIN)/python benchmarks/serving.py --only $$only --json benchmarks/results/serving.json \
		|| exit 1; done
	@$(BIN)/python -m benchmarks.serving_table benchmarks/results/serving.json docs/serving.md

lock: ## Resolve requirements.lock again (needs uv).
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra blas --extra dev \
		--generate-hashes --no-header --quiet --output-file requirements.lock --upgrade

clean: ## Remove what set-up, builds and the demo made.
	rm -rf $(VENV) $(HOME_OF_DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
