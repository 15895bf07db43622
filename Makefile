# Everything happens in .venv: nothing outside this folder is changed.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
# Tests at a time, each on one thread.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: demo test test-nightly test-matrix coverage lint audit docs dist clean

demo: .venv/ready
	$(BIN)/citrus-lirpa train --preset digits --out $(RUN)
	$(BIN)/citrus-lirpa eval $(RUN)

test: .venv/ready
	$(PYTEST)

test-nightly: .venv/ready
	$(PYTEST) -m nightly

# The oldest and newest versions that setup.cfg allows; put auto_LiRPA's checkout on PYTHONPATH to
# have it tested too. `make test-matrix ROWS="oldest newest"` runs these rows only.
test-matrix:
	$(PYTHON) tests/matrix.py $(ROWS)

coverage: .venv/lint
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine
	$(BIN)/coverage report

lint: .venv/lint audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive citrus_lirpa cli.py tools

# Says so where no network answers.
audit: .venv/lint
	$(BIN)/python tools/audit.py

# The sdist and the wheel made from it, once a test has installed both in clean environments.
dist: .venv/ready
	$(BIN)/python -m pytest -m "" tests/product/test_dist.py
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo 'open site/index.html'

.venv/ready: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --no-deps auto-LiRPA==0.3
	$(BIN)/pip install --no-deps CTRAIN==0.6.1 || echo 'without CTRAIN, the tests of its networks skip'
	touch $@

.venv/lint: .venv/ready
	$(BIN)/pip install --constraint constraints.txt --editable '.[lint]'
	touch $@

clean:
	rm -rf .venv .matrix build dist site *.egg-info
