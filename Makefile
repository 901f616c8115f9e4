# Every target is sufficient alone: it makes or completes .venv first, which takes no time when nothing changed.
#   make run PRESET=lab PYTHON=python3.12 OUT=some/folder MANIFEST=my/data_manifest.csv

PYTHON ?= python3
PRESET ?= smoke
OUT ?= out/$(PRESET)
MANIFEST ?=
NOTEBOOKS ?=
# Tests of one file stay on one worker, in the order of the files: they share what they have trained.
PYTEST_ARGS ?= --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
LOCK_ARGS ?=
APP ?= notebooks/15_explore.ipynb
PORT ?= 8866
PREHEAT ?= True
APP_ARGS ?=
BENCH_ARGS ?=

BIN := .venv/bin
# Synthesised subjects and trained runs are kept here, out of the home folder and out of git.
MTG_LAB_CACHE ?= $(CURDIR)/.cache
export MTG_LAB_CACHE

.DEFAULT_GOAL := help
.PHONY: help run test lab app bench lint phantom install lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: $(if $(MANIFEST),install,phantom) ## execute the notebooks into out/PRESET, with an HTML index (PRESET=smoke|lab|paper, OUT=, MANIFEST=, NOTEBOOKS=)
	$(BIN)/mtg-lab run $(NOTEBOOKS) --preset $(PRESET) $(if $(MANIFEST),--manifest "$(MANIFEST)") --out "$(OUT)"
	@echo "The lab is in $(abspath $(OUT))/index.html"

test: install ## run all tests (PYTEST_ARGS= for other options)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PYTEST_ARGS)

lab: phantom ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

# The template is Voila's own without the style sheets that it fetches from elsewhere. A kernel is ready before the page
# is asked for, so that only the first reader may have to wait.
app: phantom ## serve the lab by hand without code (PORT=8866, APP=a notebook, PREHEAT=False for no kernel in reserve)
	JUPYTER_PATH="$(CURDIR)/tools/jupyter$${JUPYTER_PATH:+:$$JUPYTER_PATH}" \
		$(BIN)/voila "$(APP)" --template=offline --preheat_kernel=$(PREHEAT) --pool_size=1 \
		--port=$(PORT) $(APP_ARGS)

bench: phantom ## measure every ratio that the project tells of its speed, into out/bench.csv (BENCH_ARGS=)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

lint: install ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

phantom: install ## synthesise the phantom cohort of data_manifest.csv into the cache
	$(BIN)/mtg-lab phantom --default

install: ## make or complete .venv
	@$(PYTHON) tools/install.py

lock: install ## refresh requirements/lock.txt (LOCK_ARGS=--upgrade moves every pin)
	$(BIN)/python tools/lock.py $(LOCK_ARGS)

clean: ## remove .venv, caches and outputs
	rm -rf .venv .cache out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
