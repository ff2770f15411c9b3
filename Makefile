PYTHON ?= python3.11
BIN = .venv/bin

.PHONY: demo test lint bench docs clean

demo: .venv/core
	$(BIN)/partita demo

test: .venv/dev
	$(BIN)/python -m pytest --cov --cov-report=term

lint: .venv/dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports

bench: .venv/dev
	$(BIN)/python -m benchmarks

docs: .venv/dev
	$(BIN)/python -m docs.generate $(ARGS)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache

.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --editable . && touch $@

.venv/dev: .venv/core
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1' && $(BIN)/pip install --quiet --editable '.[onnx,parquet,serve]' --group dev && touch $@
