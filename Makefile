# Every target sets itself up: `make demo` and `make test` work from a bare clone.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install demo results test test-deployment test-faults lint clean

help:
	@echo "make install   .venv with the tested versions"
	@echo "make demo      five hospitals train one AGI-Net on built-in synthetic data (about 5 minutes), then a report"
	@echo "make results   the figures of docs/results.md: three seeds with baselines (about an hour)"
	@echo "make test      all fast tests (about 4 minutes)"
	@echo "make test-deployment   the runbooks carried out: three hospitals, TLS, nginx (about 2 minutes; needs nginx)"
	@echo "make test-faults       each fault in real processes, each refusal, every socket (needs strace; minutes)"
	@echo "make lint      ruff, format check, mypy"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python simulations/run.py --clients 5 reference=T2

results: $(INSTALLED)
	$(BIN)/python benchmarks/results.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2

test-deployment: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow tests/integration/test_gateway.py tests/integration/test_deployment.py

test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow tests/faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache
