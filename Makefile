# The few commands of this project. `make check` is what CI runs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# One thread a process: several processes train at once on few cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check install lint proto readme base clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	# Tests hold our robust rules to theirs, by modules that need none of what it asks for (torchvision, seaborn).
	$(BIN)/python -m pip install --quiet --no-deps byzfl==0.0.11
	touch $@

demo: install  ## Install, then run a whole federation on this machine
	$(BIN)/bottega demo

test: install  ## Install, then run every test
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## What CI runs

proto: install  ## Generate the wire records again
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		common/proto/*.proto

readme: install  ## Write the live --help into the README's help blocks
	$(BIN)/python -m tests.unit.readme_help --write

base: install  ## Train the embedded base again, from nothing but its seed (about two hours on two cores)
	$(BIN)/python -m common.base.train --work base-work

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bottega-demo
