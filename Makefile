PYTHON ?= python3
RESULTS ?= results
BOARD ?= leaderboard.md
SEEDS ?= 2
BASE ?= origin/main
HEAD ?= HEAD
VERDICT ?= verdict.md
READY := .venv/.ready
BIN := .venv/bin
PEERS := .venv-peers

.PHONY: help run test test-slow test-peers lint report figures verify-pr clean

help:  ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1: /' | awk -F': ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: $(READY)  ## set up .venv, run the quick suite, write results and leaderboard
	$(BIN)/loobench run --suite quick --seeds $(SEEDS) --results $(RESULTS)
	$(BIN)/loobench report --results $(RESULTS) --board $(BOARD)

test: $(READY) lint  ## set up .venv, then lint, types and tests
	$(BIN)/python -m pytest --numprocesses auto -m "not slow"

test-slow: $(READY)  ## the tests that are marked slow
	$(BIN)/python -m pytest --numprocesses auto -m slow

test-peers: $(PEERS)/.ready  ## set up .venv-peers with the rival libraries, then test the adapters to them
	$(PEERS)/bin/python -m pytest --numprocesses auto tests -k "peer or dattri or captum or kronfluence or pydvl or traker"

lint: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(READY)  ## write the leaderboard from the results that are there
	$(BIN)/loobench report --results $(RESULTS) --board $(BOARD)

figures: $(READY)  ## draw the committed figures from the results that are there
	$(BIN)/loobench plot --results $(RESULTS) --suite hara2019 --kind cost --kind heatmap --kind ranks
	$(BIN)/loobench plot --results $(RESULTS) --task final-model-adult-adam --kind horizons
	$(BIN)/loobench plot --results $(RESULTS) --task quick-digits-mlp-sgd --kind pairs

verify-pr: $(READY)  ## judge what HEAD adds to BASE as a submission, or BUNDLE=folder, into VERDICT: check, audit, verify
	$(BIN)/python -m benchmark.proposal --base "$(BASE)" --head "$(HEAD)" $(if $(BUNDLE),--bundle "$(BUNDLE)") --markdown "$(VERDICT)"

clean:  ## remove .venv and what tools left behind
	rm -rf .venv $(PEERS) *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PEERS)/.ready: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-peers.txt --editable '.[dev,peers]'
	touch $@
