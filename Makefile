# `make demo` and `make test` each do all the set-up from a bare Python, and are safe to run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE := 1

# A file's tests share fixtures, so a worker takes a whole file; long ones go first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: help demo test test-all test-gpu lint format bench clean

help:
	@echo "make demo      apply a five-step recipe to a small model, build a bundle, run it"
	@echo "make test      lint, types, and the tests (minutes)"
	@echo "make test-all  the full matrices too (longer)"
	@echo "make test-gpu  the tests that need a CUDA device"
	@echo "make format    format the code"
	@echo "make bench     measure, side by side, in one run (an hour)"

# torch comes first and pinned: other packages would pull in another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python demo/run.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not full and not gpu"

test-all: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu" --cov --cov-report=term

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python bench/plan_start.py
	$(BIN)/python bench/bundle_size.py
	$(BIN)/python bench/regional.py
	$(BIN)/python bench/build_cache.py
	$(BIN)/python bench/cold_start.py

clean:
	rm -rf $(VENV) dist demo/out .coverage .mypy_cache .pytest_cache .ruff_cache
