# Everything runs in .venv, which is made on demand: only Python and make are needed.
#
#   make demo    compile an example, print its report, generate a weight, train a network
#   make test    all tests
#   make check   what the continuous integration runs: lint, types, tests
#   make format  format the sources
#   make bench   measure what is compiled against other libraries
#   make bench-gpu  measure the kernels on a GPU; without one it says so and is done
#   make golden  rewrite the golden files (look at the diff before you commit it)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILD := build/demo

.PHONY: demo test check lint types format golden bench bench-gpu clean

demo: $(INSTALLED)
	mkdir -p $(BUILD)
	$(BIN)/tncompile compile examples/vgg16_fc2.tn -o $(BUILD)/vgg16_fc2.py
	$(BIN)/tncompile report examples/vgg16_fc2.tn
	$(BIN)/python examples/generate.py $(BUILD)/vgg16_fc2.py
	$(BIN)/python examples/digits.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2

check: lint types test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(INSTALLED)
	$(BIN)/python -m pytest -q tests --update-golden

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.torch_backend

# pip keeps the torch that is there: with CPU builds only, nothing is measured.
bench-gpu: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[triton]'
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV) build

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
