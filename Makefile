# Verbs of the project. A GPU machine installs with `make install DEVICE=gpu`; CI tests a wheel with WHEEL=dist/....whl;
# `make bench DATA=FOLDER` runs what needs public logs too.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
BIN := $(VENV)/bin
EXTRAS := [$(DEVICE),ray,dev,docs]
WHAT := $(if $(WHEEL),'$(WHEEL)$(EXTRAS)',-e '.$(EXTRAS)')
ALIAS := $(if $(filter cpu,$(DEVICE)),./packaging/fbgemm-gpu-cpu-alias)
KERNELS := $(wildcard cython_ext/recsys_cython_ext/*.pyx cython_ext/recsys_cython_ext/*.pxd)

.PHONY: install demo test test-slow lint format bench docs clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0 $(ALIAS) $(WHAT)
	$(BIN)/recsys doctor
	touch $@

demo: install
	$(BIN)/recsys demo

test: install
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow --timeout 3600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/hashing.py
	$(BIN)/python benchmarks/static_function.py
	$(BIN)/python benchmarks/lookup.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/bootstrap.py
	$(BIN)/python benchmarks/sharding_agreement.py
	$(BIN)/python benchmarks/elasticity.py
	$(BIN)/python benchmarks/decay_rule.py
	$(BIN)/python benchmarks/sequential_error.py
ifdef DATA
	$(BIN)/python benchmarks/batches.py $(DATA)/criteo80k.parquet
	$(BIN)/python benchmarks/pipeline.py $(DATA)/criteo80k.parquet
	$(BIN)/python benchmarks/training.py $(DATA)/criteo80k.parquet --rounds 1
	$(BIN)/python benchmarks/off_policy.py $(DATA)/obd40k.parquet
endif

clean:
	rm -rf build dist *.egg-info $(VENV)
