# `make demo` and `make test` each do all the set-up from a bare Python, and are safe to run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE := 1

# A file's tests share fixtures, so a worker takes a whole file; long ones go first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --durations=10

# The vendor's libraries pin other versions, so they have an environment of their own.
NEURON := .venv-neuron
NEURON_BIN := $(NEURON)/bin
NEURON_READY := $(NEURON)/.ready
GAUDI := .venv-gaudi
GAUDI_BIN := $(GAUDI)/bin
GAUDI_READY := $(GAUDI)/.ready

.PHONY: help demo test test-all test-neuron test-gaudi test-older test-gpu lint format bench clean

help:
	@echo "make demo         apply a five-step recipe to a small model, build a bundle, run it"
	@echo "make test         lint, types, and the tests, those of the vendors' backends too (minutes)"
	@echo "make test-all     the full matrices too (longer)"
	@echo "make test-neuron  the Neuron backend alone, in an environment of its own"
	@echo "make test-gaudi   the Gaudi backend's second engine, in an environment of its own"
	@echo "make test-older   the core with the older versions of that environment"
	@echo "make test-gpu     the tests that need a CUDA device"
	@echo "make format       format the code"
	@echo "make bench        measure, side by side, in one run (an hour)"

# torch comes first and pinned: other packages would pull in another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(NEURON_READY): pyproject.toml constraints-neuron.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12) and "Python 3.10 or 3.11 is needed")'
	$(PYTHON) -m venv $(NEURON)
	$(NEURON_BIN)/python -m pip install --quiet -c constraints-neuron.txt torch
	$(NEURON_BIN)/python -m pip install --quiet -c constraints-neuron.txt -e '.[neuron,signing]' \
		hypothesis jsonschema pytest pytest-cov pytest-timeout pytest-xdist
	touch $@

$(GAUDI_READY): pyproject.toml constraints-gaudi.txt
	$(PYTHON) -m venv $(GAUDI)
	$(GAUDI_BIN)/python -m pip install --quiet -c constraints-gaudi.txt torch
	$(GAUDI_BIN)/python -m pip install --quiet -c constraints-gaudi.txt optimum-habana==1.21.2 -e '.[signing]' \
		hypothesis jsonschema pytest pytest-cov pytest-timeout pytest-xdist
	touch $@

demo: $(READY)
	$(BIN)/python demo/run.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint test-neuron test-gaudi
	$(BIN)/python -m pytest $(PARALLEL) -m "not full and not gpu and not neuron and not gaudi"

test-neuron: $(NEURON_READY)
	$(NEURON_BIN)/python -m pytest $(PARALLEL) -m "neuron and not full" tests/neuron

test-gaudi: $(GAUDI_READY)
	$(GAUDI_BIN)/python -m pytest $(PARALLEL) -m gaudi tests/gaudi

# The core with the versions that the vendor pins.
test-older: $(NEURON_READY)
	$(NEURON_BIN)/python -m pytest $(PARALLEL) -m "not full and not gpu" tests/compilekit

test-all: lint test-gaudi test-older
	$(NEURON_BIN)/python -m pytest $(PARALLEL) -m neuron tests/neuron
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not neuron and not gaudi" --cov --cov-report=term

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
	rm -rf $(VENV) $(NEURON) $(GAUDI) dist demo/out .coverage .mypy_cache .pytest_cache .ruff_cache
