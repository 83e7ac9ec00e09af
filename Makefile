# Every target sets up what it needs: a virtual environment with pinned packages, and the libraries that rendering needs.
VENV ?= .venv
EXTRAS ?= metaworld,text,dev
# Passed to pip, for instance an index that carries the build of torch for your accelerator.
PIP_ARGS ?=
WORKERS ?= 2
# Passed to pytest, for instance: --fit-precision bfloat16, --random-order, -k NAME
PYTEST_ARGS ?=
DEMO_OUT ?= runs/demo

# ManiSkill3 needs numpy 1, so it has an environment of its own.
MANISKILL_VENV ?= .venv-maniskill
# Meta-World pins an older MuJoCo than the one that LIBERO is checked on.
LIBERO_VENV ?= .venv-libero
# LeRobot needs Python 3.12 and an older torch.
LEROBOT_VENV ?= .venv-lerobot

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help test-fast test-portable setup openpi maniskill test-maniskill vulkan constraints-maniskill libero test-libero constraints-libero lerobot test-lerobot constraints-lerobot render-libraries browser test demo lint bench format hooks constraints clean

help:
	@echo "make setup   create $(VENV) and install Failwise with pinned packages (a second call is instant)"
	@echo "make demo    the whole job on Meta-World in minutes: collect, learn, steer, prove, report"
	@echo "make test    the tests; make test-fast those that take seconds and no simulator"
	@echo "make lint    ruff, mypy --strict, the import contract, the titles of commits"
	@echo "make bench   the benchmarks, one line of figures each"
	@echo "make hooks   install the pre-commit hooks"
	@echo "make maniskill, make test-maniskill   the same for ManiSkill3, in $(MANISKILL_VENV)"
	@echo "make libero, make test-libero         the same for LIBERO, in $(LIBERO_VENV)"
	@echo "make lerobot, make test-lerobot       the same for LeRobot's policies and datasets, in $(LEROBOT_VENV)"

setup: render-libraries $(STAMP)

# Not part of the stamp: the libraries belong to the machine, not to the environment, and the check takes milliseconds.
render-libraries:
	@bash scripts/render_libraries.sh

browser:
	@bash scripts/browser.sh

# openpi's own client and server, which tell the tests whether ours speak their protocol. Their metadata wants numpy 1, their code
# does not, so they come without what they ask for.
openpi: setup
	@$(BIN)/python -c 'import openpi_client.msgpack_numpy, openpi_server' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --no-input --no-deps openpi-client==0.1.2 openpi-server==0.1.0

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@VENV='$(VENV)' EXTRAS='$(EXTRAS)' PIP_ARGS='$(PIP_ARGS)' bash scripts/setup.sh
	@touch $@

maniskill: vulkan $(MANISKILL_VENV)/.installed

vulkan:
	@bash scripts/vulkan.sh

$(MANISKILL_VENV)/.installed: pyproject.toml constraints-maniskill.txt scripts/setup.sh
	@VENV='$(MANISKILL_VENV)' EXTRAS=maniskill,text,test CONSTRAINTS=constraints-maniskill.txt PIP_ARGS='$(PIP_ARGS)' bash scripts/setup.sh
	@touch $@

test-maniskill: maniskill
	OMP_NUM_THREADS=1 $(MANISKILL_VENV)/bin/python -m pytest -n $(WORKERS) -m maniskill tests/envs/test_maniskill.py tests/envs/test_maniskill_driving.py

libero: render-libraries $(LIBERO_VENV)/.installed

$(LIBERO_VENV)/.installed: pyproject.toml constraints-libero.txt scripts/setup.sh
	@VENV='$(LIBERO_VENV)' EXTRAS=libero,text,test CONSTRAINTS=constraints-libero.txt PIP_ARGS='$(PIP_ARGS)' bash scripts/setup.sh
	@touch $@

test-libero: libero
	OMP_NUM_THREADS=1 $(LIBERO_VENV)/bin/python -m pytest -n $(WORKERS) -m libero tests/envs/test_libero.py

lerobot: $(LEROBOT_VENV)/.installed

$(LEROBOT_VENV)/.installed: pyproject.toml packages/lerobot_policy_failwise/pyproject.toml constraints-lerobot.txt scripts/setup.sh
	@VENV='$(LEROBOT_VENV)' EXTRAS=lerobot,metaworld,test LEAST=12 CONSTRAINTS=constraints-lerobot.txt PIP_ARGS='$(PIP_ARGS)' bash scripts/setup.sh
	@$(LEROBOT_VENV)/bin/python -m pip install --quiet --no-input --no-deps --editable packages/lerobot_policy_failwise
	@touch $@

test-lerobot: lerobot
	OMP_NUM_THREADS=1 $(LEROBOT_VENV)/bin/python -m pytest tests/exchange tests/lerobot_policies

# One thread a worker: the workers already fill the cores.
test: setup browser openpi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

# What takes seconds and no simulator: most of the tests in a fraction of the time.
test-fast: setup browser openpi
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not metaworld" $(PYTEST_ARGS)

# Nothing may hang on what the processor is good at, or on the order of the tests: once as on a processor without vector
# units, once as on one with AVX2 and nothing newer, each in a random order of its own.
test-portable: SEED := $(shell date +%s)
test-portable:
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	  $(MAKE) test-fast PYTEST_ARGS="--random-order --random-order-seed=$(SEED)"
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  $(MAKE) test-fast PYTEST_ARGS="--random-order --random-order-seed=$(SEED)1"

demo: setup
	$(BIN)/failwise demo --out '$(DEMO_OUT)' --workers $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_commit_message.py --since-last-tag

bench: setup
	@set -e; for benchmark in $(filter-out benchmarks/soak.py benchmarks/dataset.py benchmarks/maniskill_step.py benchmarks/planned.py,$(wildcard benchmarks/*.py)); do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: setup
	$(BIN)/pre-commit install --hook-type pre-commit --hook-type commit-msg

# After a deliberate upgrade inside $(VENV) and a green 'make lint test'. A local build tag (+cpu) is not a pin.
constraints: FILE := constraints.txt
constraints-maniskill: FILE := constraints-maniskill.txt
constraints-maniskill: BIN := $(MANISKILL_VENV)/bin
constraints-libero: FILE := constraints-libero.txt
constraints-libero: BIN := $(LIBERO_VENV)/bin
constraints-lerobot: FILE := constraints-lerobot.txt
constraints-lerobot: BIN := $(LEROBOT_VENV)/bin
constraints constraints-maniskill constraints-libero constraints-lerobot:
	@{ head -n 1 $(FILE); $(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools \
	    --exclude openpi-client --exclude openpi-server \
	  | sed 's/+[a-z0-9]*$$//' | sort -f; } > $(FILE).new && mv $(FILE).new $(FILE)

clean:
	rm -rf $(VENV) $(MANISKILL_VENV) $(LIBERO_VENV) $(LEROBOT_VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
