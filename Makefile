# make demo   install, train three checkpoints, measure, write runs/demo/report.html
# make test   install, run all tests
# make check  lint, types, import contracts, and make test: what CI runs

PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 # the networks of the demo and the tests are small: more threads wait for each other

.PHONY: demo test check lint types contracts chromium clean

demo: .venv/installed
	$(RUN) $(BIN)/landscape demo

test: .venv/installed-for-development chromium
	$(RUN) $(BIN)/python -m pytest -n 2 --dist worksteal
	$(RUN) $(BIN)/python -m pytest --override-ini addopts= --nbmake --nbmake-timeout=300 notebooks

check: lint types contracts test

lint: .venv/installed-for-development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-for-development
	$(BIN)/mypy

contracts: .venv/installed-for-development
	$(BIN)/lint-imports

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-for-development: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

# The browser tests need Debian's chromium; where it is missing and cannot be installed, they skip and say so.
chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || true

clean:
	rm -rf .venv build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
