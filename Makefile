# Every target makes .venv on first use. PYTHON chooses the interpreter that makes it; VENV an existing environment.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.pagcp-installed
PACKAGES = specs pagcp_ir passes pagcp_cli
DEMO_OUT ?= out/digits

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench zoo replay docs clean

help:
	@echo "make demo    compile the digits example into $(DEMO_OUT)"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make bench   regenerate every figure that README and docs show"
	@echo "make zoo     compile the benchmark networks"
	@echo "make replay  recompile the example specs and compare plan.json bytes"
	@echo "make docs    regenerate the generated pages and files"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,examples]'
	touch $@

install: $(STAMP)

# The example's network is small: one thread is the fastest.
demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pagcp compile specs/examples/digits.yaml -o $(DEMO_OUT) --force

# One torch thread a worker: the tests are many small networks, and two workers share two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@if [ -f bench/__main__.py ]; then $(BIN)/python -m bench; else echo "no benchmarks yet: bench/__main__.py does not exist"; fi

zoo: $(STAMP)
	@if [ -f bench/zoo.py ]; then $(BIN)/python -m bench.zoo; else echo "no zoo yet: bench/zoo.py does not exist"; fi

replay: $(STAMP)
	$(BIN)/python -m bench.replay

docs: $(STAMP)
	$(BIN)/python -m specs.schema
	$(BIN)/python -m specs.error_codes

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
