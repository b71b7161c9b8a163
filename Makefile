# Each target makes what it needs, once. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# dm_control depends on labmaze, which has wheels up to Python 3.12.
DMC = $(shell $(RUN) -c 'import sys; print("dmc," if sys.version_info < (3, 13) else "")')
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format docs clean

help:
	@echo "make quickstart   train a recurrent agent on Pendulum-V-v0 and draw its curve (under 15 minutes on 2 cores)"
	@echo "make test         lint, format check, tests and documentation, as in continuous integration"
	@echo "make lint | format | docs | clean"

$(VENV)/bin/python:
	@echo "Creating a virtual environment in $(VENV) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else "Python 3.10 or newer is needed, got %d.%d; set PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing resel_torchrl and what it runs on (once; PyTorch is the large part) ..."
	@$(INSTALL) --editable ".[cpu,plot]"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the simulators and the development tools (once) ..."
	@$(INSTALL) --editable ".[bullet,mujoco,$(DMC)cpu,cuda,plot,tensorboard,docs,dev]"
	@touch $@

quickstart: $(VENV)/.run
	$(RUN) recipes/quickstart.py

test: $(VENV)/.dev lint
	$(RUN) -m pytest --numprocesses 2 -m "not slow and not gpu"
	@$(MAKE) --no-print-directory docs

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.dev
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build docs/generated build dist *.egg-info
