# `make help` lists the commands. They need Python >= 3.11 and make; the rest is installed into VENV once.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.omnilatent-installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  VENV=FOLDER chooses the virtual environment (default .venv), PYTHON=... the interpreter that makes it.'

install: $(STAMP) ## Make the virtual environment and install omnilatent, editable, with its tools

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("omnilatent needs Python >= 3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

demo: $(STAMP) ## Train a small any-to-any model from video files; writes runs/demo/report.html
	$(BIN)/omnilatent demo --out runs/demo

test: $(STAMP) ## Run the tests, two at a time; ARGS is passed to pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 $(ARGS)

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
