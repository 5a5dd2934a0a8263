# Everything is made in .venv with Python 3.11; nothing else is needed but make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# uv does not read pip's find-links by itself; harmless where it is not set.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export HF_HUB_OFFLINE ?= 1
export BENTOML_DO_NOT_TRACK ?= true
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export MLFLOW_DISABLE_TELEMETRY ?= true
# Without compiled modules on the disk every process compiles the libraries anew: half a minute each.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup demo up test lint format docs lock bench bench-routing story clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(BIN)/pip install --quiet uv==0.13.9
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	MIXLLM_HOME=$(CURDIR)/.demo $(BIN)/mixllm demo

up: setup
	$(BIN)/mixllm up

# A worker more than cores: those of slow starts wait. A file's tests stay together, since they share
# what is slow to start; in the order of the folders the slowest come first.
WORKERS ?= $(shell expr $$(nproc) + 1)
test: setup
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation site, into build/site; a broken link or anchor fails it.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html, or, to search it, python -m http.server --directory build/site"

# New versions of everything; prove them with make lint test demo before committing.
# The line of torch goes first: pinned without its build, it would bring the CUDA packages along.
lock: setup
	sed -i '/^torch==/d' requirements.lock
	$(UV) pip compile --quiet pyproject.toml --extra train --extra dev --python-version 3.11 \
		--no-header --no-annotate --upgrade -o requirements.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock
	$(UV) pip compile --quiet pyproject.toml --python-version 3.11 \
		--no-header --no-annotate -c requirements.lock -o requirements-serving.lock

bench: setup
	$(BIN)/python -m benchmarks.serving

# What drift does, told on real outcomes through the running stack; half an hour.
story: setup
	$(BIN)/python -W ignore -m benchmarks.drift_story --data $(DATA)/mmlu_pro --restart --out drift-story

# Where the evaluation sets lie.
DATA ?= ../shared/data
bench-routing: setup
	for name in zeroeval mmlu_pro; do \
		$(BIN)/mixllm evaluate --data $(DATA)/$$name --paper --out benchmarks/results/$$name.json \
			--choices /dev/null --plot docs/plots/$$name.png || exit 1; \
	done
	$(BIN)/python -m benchmarks.readme_tables

clean:
	rm -rf $(VENV) .venv-serving .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info build
