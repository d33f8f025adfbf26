# The one door to the template. Needs Python >= 3.11, make, and a Python package index; everything else is installed into .venv.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
OUT ?= build

##@ Use it
.PHONY: help demo bake adopt
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.bake ## Bake the default project, run it whole without Docker and check it (CHECK=1 stops afterwards)
	@$(BIN)/python tools/demo.py $(if $(CHECK),--check)

bake: $(VENV)/.bake ## Bake a project: asks, or takes ANSWERS='project_name="My Service" example=none'; goes to OUT=build
	@mkdir -p $(OUT)
	@$(BIN)/cookiecutter . --output-dir $(OUT) $(if $(ANSWERS),--no-input $(ANSWERS))
	@echo "bake: done; go into the new folder in $(OUT), then: make setup, make dev"

adopt: $(VENV)/.bake ## Bring this template into a project too old for `make template-update`: PROJECT=../my-service FROM=commit ANSWERS='…'
	@TEMPLATE_PYTHON=$(abspath $(BIN)/python) $(BIN)/python tools/adopt.py "$(PROJECT)" --template "$(CURDIR)" --from "$(FROM)" $(ANSWERS)

##@ Work on it
.PHONY: test test-variants check format bench lock clean
test: $(VENV)/.test ## Test the template and what it bakes, on real services (ARGS="-m 'not slow'" for the quick half)
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-variants: $(VENV)/.test ## Bake every pair of answers and run each variant's own suites whole: hours (ONLY="kubernetes loki" TARGETS="check test" RESUME=1 ALL=1)
	@ONLY="$(ONLY)" TARGETS="$(TARGETS)" RESUME="$(RESUME)" ALL="$(ALL)" $(BIN)/pytest tests/whole_variants.py $(ARGS)

check: $(VENV)/.test ## Format, lint, types and workflows of the template itself
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
	@$(BIN)/actionlint .github/workflows/*.yml && $(BIN)/zizmor --offline --quiet --persona auditor .github/workflows
	@$(BIN)/shellcheck .ci/run

format: $(VENV)/.test ## Rewrite the template's own Python in its format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(VENV)/.test ## Measure what a bake and a request cost, as ratios
	@$(BIN)/python benchmarks/run.py

lock: $(VENV)/.uv ## Resolve requirements/*.in into locked, hashed requirements/*.txt (UPGRADE=1 takes newer releases)
	@$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

clean: ## Remove what was baked and installed
	@rm -rf build $(VENV)

# uv goes into the environment itself, so that nothing outside this folder is needed or changed.
$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name another one: make PYTHON=python3.13" >&2; exit 1; }
	@test -x $(BIN)/python || echo "installing into $(VENV): a minute, once" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.bake: requirements/bake.txt | $(VENV)/.uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bake.txt
	@touch $@

$(VENV)/.test: requirements/bake.txt requirements/test.txt | $(VENV)/.uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bake.txt -r requirements/test.txt
	@touch $@ $(VENV)/.bake
