# Doors to everything: `make` alone lists them. Each can be run again at once; what is finished is not done again.
#
#   make quickstart PYTHON=python3.12                 another interpreter (3.11 or newer)
#   make quickstart TORCH_INDEX=<address of an index> torch from another wheel index, e.g. for a CUDA version
#   make test PYTEST_ARGS="-k tokenizer"              some of the tests

PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup setup-fast setup-dev quickstart test proofs lint fix configs

help:
	@echo "make quickstart   set up .venv, then every stage on a small corpus: 4 to 9 minutes on 2 CPU cores"
	@echo "make test         set up .venv, then the test suite"
	@echo "make proofs       the long tests: many kills, long trainings"
	@echo "make lint         check format and style        make fix      mend what can be mended"
	@echo "make configs      write configs/default_config.yaml and config.schema.json from configs/schema.py"
	@echo "make setup        only set up .venv             make setup-dev  with the tools for tests and lint"
	@echo "make setup-fast   with gigatoken, which tokenises many times as fast"
	@echo
	@echo "options           PYTHON=python3.12  TORCH_INDEX=<wheel index for torch>  PYTEST_ARGS='-k tokenizer'"

setup:
	@bash tools/setup_venv.sh "$(VENV)" "$(PYTHON)" "$(TORCH_INDEX)" requirements.txt

setup-fast: setup
	@bash tools/setup_venv.sh "$(VENV)" "$(PYTHON)" "$(TORCH_INDEX)" requirements-fast.txt

# Its tests are skipped on a machine that gigatoken is not built for.
setup-dev: setup
	@bash tools/setup_venv.sh "$(VENV)" "$(PYTHON)" "$(TORCH_INDEX)" requirements-dev.txt
	@bash tools/setup_venv.sh "$(VENV)" "$(PYTHON)" "$(TORCH_INDEX)" requirements-fast.txt || echo "going on without it"

# Threads that wait sleep: by default they spin, which costs many times the work itself where other processes run too.
export OMP_WAIT_POLICY ?= PASSIVE
# Two threads: the models of the tests are too small for more, and a big machine would only get in its own way.
test proofs: export OMP_NUM_THREADS ?= 2

quickstart: setup
	@$(RUN) -m tools.quickstart

test: setup-dev
	@$(RUN) -m pytest $(PYTEST_ARGS)

proofs: setup-dev
	@$(RUN) -m pytest -m proof $(PYTEST_ARGS)

lint: setup-dev
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .

fix: setup-dev
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

configs: setup
	@$(RUN) -m configs.generate
