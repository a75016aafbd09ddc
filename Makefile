# Two commands matter: `make serve` runs the service with everything it needs on this machine,
# `make test` sets up and passes the tests. Everything lives in .venv and in the data directory.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The service is some twenty processes, and tests start it several times: each would compile everything again where nothing is kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help serve test lint format bench faults demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(STAMP) ## run the whole service on this machine; Ctrl-C stops it
	@exec $(BIN)/facegate serve

test: $(STAMP) ## set up and run all tests: two files at a time, then those that have the whole service to themselves
	@$(BIN)/python -m pytest --ignore tests/serve -n 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/python -m pytest tests/serve

lint: $(STAMP) ## style, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## let ruff format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure, as ratios in one run, on this machine
	@$(BIN)/python -m bench

faults: $(STAMP) ## walk the gate in two thousand orders, kill the worker of transforms fifty times, mark frames of two hundred videos, and check what is left and what anybody saw
	@$(BIN)/python -m tests.faults

demo: $(STAMP) ## moderate a few pictures and show what comes back
	@$(BIN)/facegate demo

clean: ## remove .venv and caches; the data directory stays
	@rm -rf $(VENV) .venv.lock build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .bench
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Several make at once share one installation: the lock lets the first install and the others wait.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
		|| { echo "facegate needs Python 3.11 or 3.12 as '$(PYTHON)'; say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "'$(PYTHON)' lacks venv; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v flock >/dev/null || { echo "flock is missing (Debian: apt-get install util-linux)" >&2; exit 1; }
	@flock .venv.lock sh -ec ' \
		if [ "$(STAMP)" -nt pyproject.toml ] && [ "$(STAMP)" -nt constraints.txt ]; then exit 0; fi; \
		echo "installing into $(VENV), once; some minutes"; \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,dev]"; \
		touch $(STAMP)'
