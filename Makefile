PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo check quick test slow lint schema clean

demo: $(VENV)/.installed
	@$(BIN)/python -m finetune.demo demo-out

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What finds most mistakes in a minute on two cores: Caffe's own numbers, the graph, the floors, the cards, the training loop.
QUICK := tests/test_floors.py tests/architectures/test_architectures_package.py tests/zoo/cards tests/zoo/models/test_runs.py \
         $(addprefix tests/converter/test_,golden.py graph.py inputs.py dropping.py weights.py upgrade.py text.py layers_by_hand.py) \
         $(addprefix tests/finetune/,train runs test_config.py)

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" $(QUICK)

test: check
	$(BIN)/python -m pytest -m "not slow"

# Every golden net in every form, an environment for each extra, thirty kills of downloads and trainings: hours.
slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The descriptor set that converter/read/schema.py loads; tests/converter/test_schema.py fails where it is out of date.
schema: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I converter/read --descriptor_set_out=converter/read/caffe.desc converter/read/caffe.proto

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[predict]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	# An independent port of MTCNN for the tests; its metadata pins a torch of its own, which it does not need.
	$(BIN)/python -m pip install --quiet --no-deps facenet-pytorch
	touch $@

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
