# `make demo` and `make test` set up .venv themselves and reuse it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint types unit check-all dist configs clean

demo: $(READY)
	$(BIN)/hvt-deploy demo

# The types are checked next to the tests: alone they would leave all but one core idle.
test: $(READY)
	$(MAKE) -j2 --output-sync=target lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations 15

# Long checks that CI does not run: hours. check_all.py goes on where it was interrupted.
check-all: test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebook]'
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m slow --ignore tests/reliability
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python benchmarks/check_all.py
	PYTHON=$(BIN)/python docker/check.sh lint resolve cpu dgpu arm64

# Builds dist/*.whl and *.tar.gz, looks into them, and runs the demo from the wheel in an environment of its own: minutes.
dist: $(READY)
	DIST=$(CURDIR)/dist $(BIN)/python -m pytest -q -m slow tests/test_dist.py

configs: $(READY)
	$(BIN)/hvt-deploy config --all export_configs

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (PyTorch's CUDA build among it): minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export,cpu,rtx,demo,dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache dist
