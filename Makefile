# Every task builds its own environment first, so that a fresh clone needs nothing but Python 3.11.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
# What pip compiles; without a compiler it installs the rest.
KERNELS := $(shell find kernels -type f ! -path 'kernels/tests/*' ! -name '*.pyc')

.DEFAULT_GOAL := help
.PHONY: help demo test lint types layers docs bench coverage accuracy clean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO)/gcn/model.pt $(DEMO)/sage/model.pt $(DEMO)/grids/model.pt ## train the samples on digits, compress them to ONNX Runtime, print the reports
	$(BIN)/gnnexport compress $(DEMO)/gcn/model.pt --force
	$(BIN)/gnnexport compress $(DEMO)/sage/model.pt --force
	$(BIN)/gnnexport compress $(DEMO)/grids/model.pt --force

$(DEMO)/grids/model.pt: samples/grids/train.py $(VENV)/.product
	$(BIN)/python samples/grids/train.py $(DEMO)/grids

$(DEMO)/%/model.pt: samples/digits/train.py $(VENV)/.product
	$(BIN)/python samples/digits/train.py $* $(DEMO)/$*

# In the order of the folders, whose last files are quick; by default those with the fewest and longest tests come last.
test: $(VENV)/.development ## run the tests, on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.development ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.development ## check types
	$(BIN)/mypy -p gnnexport
	$(BIN)/mypy samples benchmarks

layers: $(VENV)/.development ## check who imports whom
	$(BIN)/lint-imports

docs: $(VENV)/.development ## write the JSON Schemas, and the table of what goes wrong
	$(BIN)/python docs/make_schemas.py
	$(BIN)/python -c 'from tests.docs.bad_inputs import main; main()'

bench: $(VENV)/.development ## time exports, kernels and pruned models against others, and measure memory; hours
	$(BIN)/python -m benchmarks.export_vs_pytorch
	$(BIN)/python -m benchmarks.graph_sets
	$(BIN)/python -m benchmarks.aggregate
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.pruning_ablation
	$(BIN)/python -m benchmarks.serving_peers
	$(BIN)/python -m benchmarks.spam_stream
	$(BIN)/python -m benchmarks.quantized
	$(BIN)/python -m benchmarks.quantised_models --graphs "2.3 million edges"
	$(BIN)/python -m benchmarks.sparse_weights
	$(BIN)/python -m benchmarks.sparse_models --graphs "2.3 million edges"
	$(BIN)/python -m benchmarks.decoupled

coverage: $(VENV)/.development ## run every layer and model on every target, and write docs/coverage.md
	$(BIN)/python -m tests.coverage.table

accuracy: $(VENV)/.development ## run the slow tests: accuracy over seeds on real graphs
	$(BIN)/python -m pytest -m slow

clean: ## remove the environment, caches and the demo
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gnnexport needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.product: pyproject.toml $(KERNELS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[compress,ort]'
	@touch $@

$(VENV)/.development: pyproject.toml $(KERNELS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.product
