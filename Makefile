# Everything that a developer and CI call. Needs Python 3.11, git and make; the rest comes from requirements.lock.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
# A python3.11 on the path, else any python3; `setup` refuses one that is not 3.11.
PYTHON := $(or $(shell command -v python3.11),$(shell command -v python3),python3.11)
# uv from the path, else this version in an environment of its own, which a sync of .venv leaves alone.
UV_VERSION := 0.13.8
UV := $(or $(shell command -v uv),$(VENV)/tools/bin/uv)
EXTRAS := worker training registry stack serving encryption dev
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: help
help: ## Show this text.
	@echo "make TARGET [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Make .venv from requirements.lock, hashes checked; again only when the lock changed.

$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "setup: wanted Python 3.11, got $$("$(PYTHON)" --version); install it, or make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv --without-pip $(VENV)
	test -x "$(UV)" || { "$(PYTHON)" -m venv $(VENV)/tools && $(VENV)/tools/bin/python -m pip install --quiet uv==$(UV_VERSION); }
	"$(UV)" pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	"$(UV)" pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.PHONY: demo
demo: setup ## Show the whole engine on this machine: stack, model, events, one customer's list. ARGS="--fresh"
	$(BIN)/tailrace demo $(ARGS)

.PHONY: test
test: setup ## Run all tests in three processes; those of the stack start their own. ARGS="-k name"
	$(BIN)/python -m pytest --numprocesses 3 --no-loadscope-reorder $(ARGS)

.PHONY: test-fast
test-fast: setup ## Run the tests that need no stack.
	$(BIN)/python -m pytest tests/unit tests/contracts $(ARGS)

.PHONY: lint
lint: setup ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: lock
lock: $(STAMP) ## Resolve pyproject.toml into requirements.lock anew.
	test -x "$(UV)" || { "$(PYTHON)" -m venv $(VENV)/tools && $(VENV)/tools/bin/python -m pip install --quiet uv==$(UV_VERSION); }
	"$(UV)" pip compile --quiet pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 \
		--generate-hashes --no-header --output-file requirements.lock

.PHONY: clean
clean: ## Delete .venv and caches; topics and lists stay (`tailrace down --purge` deletes those).
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -not -path './.tailrace/*' -prune -exec rm -rf {} +
