# `make` lists the targets; each works from a fresh clone with nothing but Python 3.11+ and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?=
BENCH ?=

# page:module, each made by `python -m module > page`; tests/test_docs.py holds the same list against the pages.
GENERATED := \
	docs/cli.md:gastown.cli.manual \
	docs/wire.md:gastown.cli.reference \
	docs/metrics.md:gastown.metrics \
	docs/states.md:tests.rules.diagram \
	spec/openrpc.json:gastown.openrpc

.DEFAULT_GOAL := help
.PHONY: help demo test lint verify bench lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(BIN)/gastown: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(BIN)/gastown ## five real agents against a real daemon, in under a minute
	@$(BIN)/gastown demo

test: $(BIN)/gastown lint ## lint, types and every test (TESTS=path for some)
	$(BIN)/python -m pytest $(TESTS)

lint: $(BIN)/gastown ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

verify: $(BIN)/gastown ## make every generated file anew; fails where one had changed
	@for pair in $(GENERATED); do \
		$(BIN)/python -m $${pair#*:} > $${pair%:*}.new && mv $${pair%:*}.new $${pair%:*} || exit 1; \
	done
	git diff --exit-code -- $(foreach pair,$(GENERATED),$(firstword $(subst :, ,$(pair))))

bench: $(BIN)/gastown ## the coordinator beside its peers: reported, not asserted (BENCH=--quick for a minute)
	$(BIN)/python -m gastown.loadtest.bench $(BENCH)

lock: $(BIN)/gastown ## pin what pyproject.toml asks for, with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra test pyproject.toml \
		-o requirements.lock --no-header --no-annotate --no-emit-index-url

clean: ## remove what the targets above made
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
