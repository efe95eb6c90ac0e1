SHELL := /bin/bash -o pipefail

# Every target sets up what it needs in .venv on its first call and reuses it afterwards.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= runs/gpu

.PHONY: run test lint gate bench gpu clean

run: $(VENV)/installed
	$(BIN)/dlmbench run

# Files side by side; a file's tests share what is slow to make. No test goes by the clock.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bench models profiles reports

# What every generator does, exactly, against the committed counts; after a change of work that is meant:
# dlmbench gate work --counters tests/work.json --renew, in the same commit.
gate: $(VENV)/installed
	$(BIN)/dlmbench gate work --counters tests/work.json

# Speed as ratios from interleaved runs; nothing here passes or fails by the clock.
bench: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/bench/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds -s

# On a machine with a GPU and its own torch: PYTHON must have it; nothing is fetched. Everything goes on after a failure,
# since device time is dear, and the exit status tells. A handful of files arrives under OUT; the run's folder is packed,
# without its traces where they would make the archive larger than 15 MB. A run that takes longer than GPU_LIMIT seconds
# is interrupted: what it measured is reported. Only files with GPU tests are collected, the others have thousands.
DLMBENCH := $(PYTHON) -m dlmbench.bench.cli
GPU_LIMIT ?= 420
GPU_TESTS_LIMIT ?= 120
GPU_FILES := gpu-tests.txt doctor.json calibrate.json run.txt run.tar.gz report.html summary.md
gpu:
	rm -rf build $(foreach file,$(GPU_FILES),"$(OUT)/$(file)")
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation .
	mkdir -p "$(OUT)"
	status=0; work=$$(mktemp -d); \
	timeout --signal=INT --kill-after=10 $(GPU_TESTS_LIMIT) $(PYTHON) -m pytest -m gpu -p no:cacheprovider \
	  $$(grep -rl --include='test_*.py' 'mark\.gpu\b' tests) | tee "$(OUT)/gpu-tests.txt" || status=$$?; \
	$(DLMBENCH) doctor --json > "$(OUT)/doctor.json" || status=$$?; \
	$(DLMBENCH) calibrate --device cuda --json > "$(OUT)/calibrate.json" || status=$$?; \
	timeout --signal=TERM --kill-after=60 $(GPU_LIMIT) $(DLMBENCH) run gpu --device cuda --out "$$work/run" 2>&1 \
	  | tee "$(OUT)/run.txt" || status=$$?; \
	$(DLMBENCH) report "$$work/run" --archive "$(OUT)/run.tar.gz" || status=$$?; \
	if [ "$$(wc -c < "$(OUT)/run.tar.gz")" -gt 15000000 ]; then \
	  rm -rf "$$work/run/traces" "$(OUT)/run.tar.gz"; \
	  $(DLMBENCH) report "$$work/run" --archive "$(OUT)/run.tar.gz" || status=$$?; \
	fi; \
	cp "$$work/run/report.html" "$$work/run/summary.md" "$(OUT)/" || status=$$?; \
	rm -rf "$$work"; exit $$status

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,serving]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
