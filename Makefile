# Every target sets itself up: `make demo` and `make test` work from a bare clone.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
OFFLINE_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-index --find-links wheels
BUNDLE := dist/agi-fed
# By all cores. Some packages hold files for other Pythons, which fail.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
RUNTIME := .venv/runtime.installed
DEVELOP := .venv/develop.installed
DEPLOYMENTS := $(patsubst %,tests/integration/test_%.py,gateway deployment)

.PHONY: help install develop bundle demo results test test-deployment test-slow test-faults lint clean

help:
	@echo "make install   .venv with the tested versions: all that a hospital or the coordinator needs"
	@echo "make develop   the same, and the tools of tests and lint"
	@echo "make bundle    dist/agi-fed.tar: this commit with all wheels, for hospitals without a package index"
	@echo "make demo      five hospitals train one AGI-Net on built-in synthetic data, then a report (6 to 13 minutes)"
	@echo "make results   the figures of docs/results.md: three seeds with baselines, side by side (54 to 113 minutes for one alone; see docs/results.md)"
	@echo "make test      all fast tests (about 10 minutes)"
	@echo "make test-deployment   the runbooks carried out: three hospitals, TLS, nginx (about 4 minutes; needs nginx)"
	@echo "make test-slow         the other long tests: kills, private hospitals, whole benchmarks (about 17 minutes)"
	@echo "make test-faults       each fault in real processes, each refusal, every socket (needs strace; minutes)"
	@echo "make lint      ruff, format check, mypy"
	@echo "make clean     remove .venv and all caches, the built-in data among them"

install: $(RUNTIME)

develop: $(DEVELOP)

$(RUNTIME): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
ifeq ($(wildcard wheels/requirements.txt),)
	$(PIP_INSTALL) -e .
else  # unpacked from `make bundle`: these very wheels, and no index
	$(OFFLINE_INSTALL) --require-hashes -r wheels/requirements.txt
	$(OFFLINE_INSTALL) --no-deps --no-build-isolation -e .
endif
	@$(COMPILE)
	@touch $@

$(DEVELOP): $(RUNTIME)
	$(PIP_INSTALL) -e '.[dev]'
	@$(COMPILE)
	@touch $@

# For machines like this one: of the same system, processor and Python. The last two wheels build the package itself.
bundle: $(RUNTIME)
	rm -rf $(BUNDLE) $(BUNDLE).tar
	mkdir -p $(BUNDLE)
	git archive HEAD | tar -x -C $(BUNDLE)
	$(BIN)/python -m pip wheel --quiet -c constraints.txt -w $(BUNDLE)/wheels '.[dicom,register,tensorboard]' hatchling editables
	rm $(BUNDLE)/wheels/agi_fed-*.whl
	$(BIN)/python deploy/hashes.py $(BUNDLE)/wheels > $(BUNDLE)/wheels/requirements.txt
	tar -cf $(BUNDLE).tar -C dist agi-fed

demo: $(RUNTIME)
	$(BIN)/python simulations/run.py --clients 5

results: $(RUNTIME)
	$(BIN)/python benchmarks/results.py

test: $(DEVELOP)
	$(BIN)/python -m pytest -q -n 3

test-deployment: $(DEVELOP)
	$(BIN)/python -m pytest -q -m slow $(DEPLOYMENTS)

test-slow: $(DEVELOP)
	$(BIN)/python -m pytest -q -m slow --ignore tests/faults $(addprefix --ignore ,$(DEPLOYMENTS))

test-faults: $(DEVELOP)
	$(BIN)/python -m pytest -q -m slow tests/faults

lint: $(DEVELOP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache
