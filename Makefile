SHELL := /bin/bash -o pipefail

# Every target sets up what it needs in .venv on its first call and reuses it afterwards.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= runs/gpu

.PHONY: run test lint bench gpu clean

run: $(VENV)/installed
	$(BIN)/dlmbench run

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bench models profiles reports

# Speed as ratios from interleaved runs; nothing here passes or fails by the clock.
bench: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/bench/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds -s

# On a machine with a GPU and its own torch: PYTHON must have it; nothing is fetched. Everything goes on after a failure,
# since device time is dear, and the exit status tells. A handful of files arrives under OUT; the run's folder is packed.
DLMBENCH := $(PYTHON) -m dlmbench.bench.cli
gpu:
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation .
	mkdir -p "$(OUT)"
	status=0; work=$$(mktemp -d); \
	$(PYTHON) -m pytest -m gpu -p no:cacheprovider | tee "$(OUT)/gpu-tests.txt" || status=$$?; \
	$(DLMBENCH) doctor --json > "$(OUT)/doctor.json" || status=$$?; \
	$(DLMBENCH) calibrate --device cuda --json > "$(OUT)/calibrate.json" || status=$$?; \
	$(DLMBENCH) run gpu --device cuda --out "$$work/run" 2>&1 | tee "$(OUT)/run.txt" || status=$$?; \
	$(DLMBENCH) report "$$work/run" --archive "$(OUT)/run.tar.gz" || status=$$?; \
	cp "$$work/run/report.html" "$$work/run/summary.md" "$(OUT)/" || status=$$?; \
	rm -rf "$$work"; exit $$status

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
