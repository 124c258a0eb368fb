PYTHON ?= python3
RESULTS ?= results
BOARD ?= leaderboard.md
READY := .venv/.ready
BIN := .venv/bin

.PHONY: help run test lint report clean

help:  ## show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1: /' | awk -F': ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: $(READY)  ## set up .venv, run the quick suite, write results and leaderboard
	$(BIN)/loobench run --suite quick --results $(RESULTS)
	$(BIN)/loobench report --results $(RESULTS) --board $(BOARD)

test: $(READY) lint  ## set up .venv, then lint, types and tests
	$(BIN)/python -m pytest --numprocesses auto

lint: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(READY)  ## write the leaderboard from the results that are there
	$(BIN)/loobench report --results $(RESULTS) --board $(BOARD)

clean:  ## remove .venv and what tools left behind
	rm -rf .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
