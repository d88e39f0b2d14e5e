# Every target makes .venv on first use. PYTHON chooses the interpreter that makes it; VENV an existing environment.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.pagcp-installed
ZOO_VENV ?= .venv-zoo
ZOO_STAMP = $(ZOO_VENV)/.pagcp-zoo-installed
YOLOV5_VENV ?= .venv-yolov5
YOLOV5_STAMP = $(YOLOV5_VENV)/.pagcp-yolov5-installed
PACKAGES = specs pagcp_ir passes pagcp_cli
DEMO_OUT ?= out/digits
GRAPHS ?= 2000
INPUTS ?= 2000
SEED   ?= 0
KILLS  ?= 20

.DEFAULT_GOAL := help
.PHONY: help install demo test fuzz faults lint bench zoo yolov5 replay docs clean

help:
	@echo "make demo    compile the digits example into $(DEMO_OUT)"
	@echo "make test    run the tests"
	@echo "make fuzz    cut random graphs over all ops; read damaged files (GRAPHS=2000 INPUTS=2000 SEED=0)"
	@echo "make faults  full disks, Ctrl-C, lost processes; kill compiles, go on, compare (KILLS=20 SEED=0)"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make bench   regenerate every figure that README and docs show"
	@echo "make zoo     cut some 250 public networks, prove it, and compare with torch-pruning: docs/coverage.md"
	@echo "make yolov5  cut a detector by the published procedure and by our default: docs/detector.md"
	@echo "make replay  recompile the example specs and compare plan.json bytes"
	@echo "make docs    regenerate the generated pages and files"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,examples,report]'
	touch $@

install: $(STAMP)

# The example's network is small: one thread is the fastest.
demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pagcp compile specs/examples/digits.yaml -o $(DEMO_OUT) --force

# One torch thread a worker: the tests are many small networks, and two workers share two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

# Two worker processes; what fails is shrunk and printed as a recipe for `python -m tests.fuzz --replay`.
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --graphs $(GRAPHS) --seed $(SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz_readers --inputs $(INPUTS) --seed $(SEED)

# One compile at a time, each of one thread: a kill lies where it was drawn.
faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills $(KILLS) --seed $(SEED)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@if [ -f bench/__main__.py ]; then $(BIN)/python -m bench; else echo "no benchmarks yet: bench/__main__.py does not exist"; fi

$(ZOO_STAMP): bench/zoo/requirements.txt
	test -x $(ZOO_VENV)/bin/python || $(PYTHON) -m venv $(ZOO_VENV)
	$(ZOO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c bench/zoo/requirements.txt torch
	$(ZOO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r bench/zoo/requirements.txt
	touch $@

# Its libraries live in an environment of their own; ARGS='--only timm --jobs 4' measures a part.
zoo: $(ZOO_STAMP)
	$(ZOO_VENV)/bin/python -m bench.zoo $(ARGS)

$(YOLOV5_STAMP): bench/yolov5/requirements.txt pyproject.toml constraints.txt
	test -x $(YOLOV5_VENV)/bin/python || $(PYTHON) -m venv $(YOLOV5_VENV)
	$(YOLOV5_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(YOLOV5_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r bench/yolov5/requirements.txt
	touch $@

# One thread: its figures are those of one.
yolov5: $(YOLOV5_STAMP)
	OMP_NUM_THREADS=1 $(YOLOV5_VENV)/bin/python -m bench.yolov5 $(ARGS)

replay: $(STAMP)
	$(BIN)/python -m bench.replay

docs: $(STAMP)
	$(BIN)/python -m specs.schema
	$(BIN)/python -m specs.error_codes

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
