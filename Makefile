# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each sets up a virtual environment in .venv first (PYTHON=… chooses another interpreter, 3.11 or newer).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
INSTALLED := $(VENV)/.installed
SHAPES := examples/shapes

.PHONY: demo test tests test-slow test-oldest lint clean

# torch comes first and alone, pinned: with another version pip would fetch gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segc needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' $(CONSTRAINTS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[all,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python $(SHAPES)/generate.py
	$(BIN)/segc validate $(SHAPES)/project.yaml
	$(BIN)/segc build $(SHAPES)/project.yaml
	$(BIN)/segc train $(SHAPES)/project.yaml
	$(BIN)/segc val $(SHAPES)/project.yaml
	$(BIN)/segc emit $(SHAPES)/project.yaml --target onnx
	$(BIN)/python $(SHAPES)/build/artifacts/onnx/predict.py $(SHAPES)/images/val --output $(SHAPES)/build/pictures
	@echo "The pictures are in $(SHAPES)/build/pictures; the model and its script in $(SHAPES)/build/artifacts/onnx."

test: lint tests

tests: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not alone" -n 2 --dist loadfile --max-worker-restart 0
	$(BIN)/python -m pytest -m "not slow and alone"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# The tests with the oldest packages that are allowed, in an environment of their own.
test-oldest:
	$(MAKE) tests VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-oldest dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(SHAPES)/images $(SHAPES)/labels $(SHAPES)/build
