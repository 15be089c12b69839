# `make help` prints the targets. A machine needs Python >= 3.11, git, make and a C compiler; `make setup` brings the rest.

.DEFAULT_GOAL := help
.PHONY: help setup guide demo test coverage slow bench chaos check fuzz verifier lock clean

# The first interpreter that is new enough; `make setup PYTHON=...` names another.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
GUIDE := app/guide/built/scripts.json
PAGES := $(shell find docs tools/guide -type f -not -path '*/__pycache__/*')
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements.lock
# Options for pytest, such as ARGS='-k freeze -x'; `-n 0` in them runs everything in one process.
ARGS ?=
# Two processes with a thread each: torch's threads would otherwise spin against each other.
# The tests whose branch coverage has a floor (pyproject.toml, [tool.coverage]).
COVERED := tests/app/specs tests/app/freeze tests/app/evidence/format tests/app/evidence/verifier tests/tamper
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) $(GUIDE) ## make .venv with the locked dependencies (quick when nothing changed)

# torch goes first and by its exact version, so that no range elsewhere can pull another build of it.
$(READY): pyproject.toml requirements.lock tools/peers.toml
	@test -n "$(PYTHON)" || { echo "Permafrost needs Python 3.11 or newer; none of python3, python3.11 ... is. Name one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv: some minutes the first time, nothing later."
	@$(PYTHON) -m venv .venv
	@$(PIP) "$$(grep '^torch==' requirements.lock)"
	@$(PIP) -e '.[worker,demo,otel,test,check,guide,mcp,quant,wandb]'
	@$(BIN)/python -m tools.peers model-signing mlflow openai triton hadolint kubernetes promql schemas >/dev/null
	@touch $@

guide: $(GUIDE) ## docs/ as a site, which the service shows at /guide

$(GUIDE): $(READY) $(PAGES)
	@$(BIN)/python -m tools.guide

demo: setup ## train with frozen weights through HTTP, and check the evidence as an outsider
	$(BIN)/python -m demo

test: setup ## every test but those of make slow and make chaos; on SQLite, and on PostgreSQL with Redis
	$(PYTEST) -n 2 -m 'not slow and not chaos' $(ARGS)

coverage: setup ## branch coverage of specs, policies, evidence and verifier by their own tests; fails below its floor
	$(PYTEST) -n 2 -m 'not slow and not chaos' --cov --cov-report=term $(ARGS) $(COVERED)

slow: setup ## the tests that take longer: demo, fuzzing, compilers, several processes
	$(PYTEST) -n 2 -m 'slow and not chaos' $(ARGS)

chaos: setup ## every fault against a running service, then random ones (more of them: ARGS='--chaos-jobs 60')
	$(PYTEST) -n 2 -m chaos --dist loadfile $(ARGS)

bench: setup ## every benchmark, a line per figure
	$(BIN)/python -m benchmarks all

check: setup ## linter, format, types, import contracts, the OpenAPI document, Dockerfile, compose files and deploy/
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.spectral
	$(BIN)/python -m tools.manifests

fuzz: setup ## requests made from the OpenAPI document against a running service
	$(BIN)/python -m tools.fuzz

verifier: setup ## dist/permafrost-verify.pyz: the verifier in one file, for a Python with `cryptography`
	$(BIN)/python -m tools.verifier

lock: setup ## rewrite requirements.lock from what .venv holds
	$(BIN)/python -m tools.lock > requirements.lock.new && mv requirements.lock.new requirements.lock

clean: ## remove what the targets above made (not .venv, not .permafrost)
	rm -rf build dist app/guide/built *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
