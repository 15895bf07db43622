# Everything happens in .venv: nothing outside this folder is changed.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-nightly lint clean

demo: .venv/ready
	$(BIN)/citrus-lirpa train --preset digits --out $(RUN)
	$(BIN)/citrus-lirpa eval $(RUN)

test: .venv/ready
	$(BIN)/python -m pytest

test-nightly: .venv/ready
	$(BIN)/python -m pytest -m nightly

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/ready: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --no-deps auto-LiRPA==0.3
	touch $@

clean:
	rm -rf .venv build *.egg-info
