# `make demo` and `make test` each do all the set-up from a bare Python, and are safe to run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The vendors' libraries pin other versions, so each vendor has its own environment.
NEURON := .venv-neuron
GAUDI := .venv-gaudi

# For the quick loop: no vendor's libraries, no compiler, any Python from 3.10 on.
QUICK := .venv-quick

export HF_HUB_OFFLINE := 1

# A file's tests share fixtures, so a worker takes a whole file; long ones go first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder --durations=10
NOT_FULL := not full and not gpu
MAIN := $(NOT_FULL) and not neuron and not gaudi

QUICK_TESTS := tests/house tests/compat/test_surface.py::test_public_names_commands_and_entry_points_are_the_same \
	$(addprefix tests/compilekit/,recipe plan plugin/test_host.py base/test_staging.py cache/test_store.py \
	bundle/test_signature.py bundle/test_compare.py measure/test_compare.py measure/test_images.py)

.PHONY: help demo quick quick-checks quick-tests test test-all test-neuron test-gaudi test-older test-gpu test-pythons \
	lint format bench clean

help:
	@echo "make demo         find the fastest recipe for a small model here, build a bundle, run it"
	@echo "make quick        lint, types, import rules and fast tests, in under 90 seconds"
	@echo "make test         everything that CI runs (minutes)"
	@echo "make test-all     the full matrices too (longer)"
	@echo "make test-neuron  the Neuron backend, in its own environment"
	@echo "make test-gaudi   the Gaudi backend's second engine, in its own environment"
	@echo "make test-older   the core with the older libraries of the Neuron environment"
	@echo "make test-pythons make quick on each other Python that has a wheel of torch on disk"
	@echo "make test-gpu     the tests that need a CUDA device"
	@echo "make format       format the code"
	@echo "make bench        measure, side by side, in one run (two hours)"

# environment FOLDER, CONSTRAINTS, WHAT TO INSTALL, MARK: torch comes first and pinned, because other
# packages would pull in another build of it. `--group` needs pip 25.1.
define environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet 'pip>=25.1'
	$(1)/bin/python -m pip install --quiet -c $(2) torch
	$(1)/bin/python -m pip install --quiet -c $(2) $(3)
	touch $(1)/$(or $(4),.ready)
endef

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV),constraints.txt,-e '.[lora$(comma)signing$(comma)torchao]' --group dev)

$(QUICK)/.ready: pyproject.toml constraints.txt
	$(call environment,$(QUICK),constraints.txt,-e '.[lora$(comma)signing$(comma)torchao]' --group dev)

$(NEURON)/.ready: pyproject.toml constraints-neuron.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12) and "Python 3.10 or 3.11 is needed")'
	$(call environment,$(NEURON),constraints-neuron.txt,-e '.[neuron$(comma)signing]' --group test)

$(GAUDI)/.ready: pyproject.toml constraints-gaudi.txt
	$(call environment,$(GAUDI),constraints-gaudi.txt,optimum-habana==1.21.2 -e '.[signing]' --group test)

comma := ,

# What the demo needs: the core alone.
$(VENV)/.core: pyproject.toml constraints.txt
	$(call environment,$(VENV),constraints.txt,-e .,.core)

demo: $(VENV)/.core
	$(BIN)/python demo/run.py

# checks ENVIRONMENT: what pre-commit runs too.
define checks
	$(1)/bin/ruff format --check .
	$(1)/bin/ruff check .
	$(1)/bin/lint-imports --no-logo
	$(1)/bin/mypy
endef

lint: $(READY)
	$(call checks,$(VENV))

# mypy takes half of the time if it has no cache, so the tests run beside the checks.
quick: $(QUICK)/.ready
	@$(MAKE) --no-print-directory --output-sync -j2 quick-checks quick-tests

quick-checks:
	$(call checks,$(QUICK))

quick-tests:
	$(QUICK)/bin/python -m pytest -q -n auto -m "$(NOT_FULL)" $(QUICK_TESTS)

test: lint test-neuron test-gaudi test-pythons
	$(BIN)/python -m pytest $(PARALLEL) -m "$(MAIN)"

test-neuron: $(NEURON)/.ready
	$(NEURON)/bin/python -m pytest $(PARALLEL) -m "neuron and not full" tests/neuron

test-gaudi: $(GAUDI)/.ready
	$(GAUDI)/bin/python -m pytest $(PARALLEL) -m "gaudi and not full" tests/gaudi

test-older: $(NEURON)/.ready
	$(NEURON)/bin/python -m pytest $(PARALLEL) -m "$(NOT_FULL)" tests/compilekit

# Elsewhere pip would fetch a torch of several GB, so a Python without a wheel on disk is skipped.
test-pythons:
	@for version in 3.10 3.11 3.12 3.13 3.14; do \
		python=; \
		for each in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			if "$$each" -c "" 2>/dev/null; then python=$$each; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "Python $$version: skipped, it is not on this machine"; \
		elif $(PYTHON) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')"; then \
			echo "Python $$version: skipped, the other tests run on it"; \
		elif ! "$$python" -m pip install --dry-run --ignore-installed --no-index --no-deps \
				-c constraints.txt torch >/dev/null 2>&1; then \
			echo "Python $$version: skipped, no wheel of torch for it on this machine"; \
		else \
			$(MAKE) quick PYTHON="$$python" QUICK=".venv-quick-$$version" || exit 1; \
		fi; \
	done

test-all: lint test-older $(GAUDI)/.ready
	$(GAUDI)/bin/python -m pytest $(PARALLEL) -m gaudi tests/gaudi
	$(NEURON)/bin/python -m pytest $(PARALLEL) -m neuron tests/neuron
	$(BIN)/python -m pytest $(PARALLEL) -m "not gpu and not neuron and not gaudi" --cov --cov-report=term

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python bench/plan_start.py
	$(BIN)/python bench/rates.py
	$(BIN)/python bench/bundle_size.py
	$(BIN)/python bench/regional.py
	$(BIN)/python bench/build_cache.py
	$(BIN)/python bench/cold_start.py
	$(BIN)/python bench/tune.py

clean:
	rm -rf .venv .venv-* dist demo/out .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
