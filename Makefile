PYTHON ?= python3
RESULTS ?= my-results
SEEDS ?= 2
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)  # one more than cores: some tests wait, for a process or a time
TELLING := exact-loo acc-sgd-ie-exact sgd-ie acc-adam-ie-exact-map self-gradient partial-retrain-linear source dvemb if-cg if-ekfac \
	trak tracin grad-dot knn-shapley chance
BASE ?= origin/main
HEAD ?= HEAD
VERDICT ?= verdict.md
DEVICE ?= cuda
READY := .venv/.ready
BIN := .venv/bin
PEERS := .venv-peers
UV ?= uv
BARE := .venv-uv

.PHONY: help run test test-slow test-peers test-ray test-uv mutants lint report publish figures verify-pr gpu clean

help:  ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1: /' | awk -F': ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: $(READY)  ## set up .venv, run fifteen estimators on the suite quick (ALL=1: all), write my-results and its board
	$(BIN)/loobench run --suite quick --seeds $(SEEDS) --results $(RESULTS) $(if $(ALL),,$(TELLING:%=--estimator %))
	$(BIN)/loobench report --results $(RESULTS)

test: $(READY) lint  ## set up .venv, then lint, types and tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(READY)  ## the tests that are marked slow
	$(BIN)/python -m pytest --numprocesses auto -m slow

test-peers: $(PEERS)/.ready  ## set up .venv-peers with the rival libraries, then test the adapters to them
	$(PEERS)/bin/python -m pytest --numprocesses auto tests -k "peer or dattri or captum or kronfluence or pydvl or traker"

test-ray: $(READY)  ## add Ray and submitit to .venv, then test truths and cells on a cluster of two nodes, and an array of jobs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray,slurm]'
	$(BIN)/python -m pytest tests/test_workers.py tests/test_cells_on_ray.py -k "(ray_cluster and 4) or submitit"

test-uv: $(BARE)/.ready  ## set up .venv-uv by uv, which compiles no library ahead, then test what uses libraries
	$(BARE)/bin/python -B -m pytest --numprocesses auto tests/test_estimators.py tests/test_data_baselines.py tests/test_conformance.py \
		-k "lava or outlier or amortised or influence"

mutants: $(READY)  ## break the code in each way that tests/mutants.toml lists, in a copy, and see that its tests find it (20 minutes)
	$(BIN)/python tests/mutants.py

lint: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(READY)  ## write the board of my-results beside the published ones
	$(BIN)/loobench report --results $(RESULTS)

publish: $(READY)  ## for maintainers: write leaderboard, page, manifest and the README table from results, docs/estimating.md
	$(BIN)/loobench report --publish
	$(BIN)/python -m benchmark.publishing.guide

figures: $(READY)  ## for maintainers: draw the committed figures from results
	$(BIN)/loobench plot --out docs/figures --suite hara2019 --kind cost --kind heatmap --kind ranks
	$(BIN)/loobench plot --out docs/figures --task final-model-adult-adam --kind horizons
	$(BIN)/loobench plot --out docs/figures --task quick-digits-mlp-sgd --kind pairs

verify-pr: $(READY)  ## judge what HEAD adds to BASE as a submission, or BUNDLE=folder, into VERDICT: check, audit, verify
	$(BIN)/python -m benchmark.submissions.proposal --base "$(BASE)" --head "$(HEAD)" $(if $(BUNDLE),--bundle "$(BUNDLE)" )$(if $(NONCE),--nonce $(NONCE) )--markdown "$(VERDICT)"

gpu:  ## for maintainers: what a GPU does, in eight minutes, with the torch of PYTHON; DEVICE=cpu: a dry run; OUT=folder for its JSON
	$(PYTHON) -m benchmark.studies.card --device $(DEVICE)

clean:  ## remove .venv and what tools left behind
	rm -rf .venv $(PEERS) $(BARE) *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(BARE)/.ready: pyproject.toml constraints.txt
	$(UV) venv --quiet --clear --python $(PYTHON) $(BARE)
	VIRTUAL_ENV=$(BARE) $(UV) pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(PEERS)/.ready: pyproject.toml constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-peers.txt --editable '.[dev,peers]'
	touch $@
