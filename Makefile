PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint bench study

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@

demo: install
	$(BIN)/augury run quick

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not study" -n logical --maxprocesses 4 --dist loadfile

study: install
	$(BIN)/python -m pytest -m study

bench: install
	$(BIN)/python tests/bench.py
