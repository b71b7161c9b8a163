# Each target makes what it needs, once. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# dm_control depends on labmaze, which has wheels up to Python 3.12.
DMC = $(shell $(RUN) -c 'import sys; print("dmc," if sys.version_info < (3, 13) else "")')
EXTRAS = bullet,mujoco,$(DMC)cpu,cuda,plot,tensorboard,docs,dev
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt

TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)
# The versions to install: the pinned ones, but a PyTorch that is in .venv already stays, and what it
# limits follows it.
define PINS
torch=$$($(RUN) -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null); \
case "$$torch" in \
"") echo "PyTorch comes from your package index: about 200 MB, but on Linux 3 GB (5 GB on disk), with"; \
    echo "the CUDA libraries for NVIDIA's GPUs. Without such a GPU, stop here (Ctrl-C), install its CPU"; \
    echo "build, about 200 MB, and run make again:"; \
    echo "    $(VENV)/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu"; \
    cp constraints.txt $(VENV);; \
$(TORCH)|$(TORCH)+*) cp constraints.txt $(VENV);; \
*) echo "Keeping PyTorch $$torch, which is in $(VENV)."; \
    { grep -vE '^(torch|triton|setuptools)==' constraints.txt; echo "torch==$$torch"; } > $(VENV)/constraints.txt;; \
esac
endef

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-avx2 resolve lint format docs clean

help:
	@echo "make quickstart   train a recurrent agent on Pendulum-V-v0 and draw its curve"
	@echo "make test         lint, format check, tests and documentation, as in continuous integration"
	@echo "make test-avx2    the fast tests once more, as on a processor that has AVX2 only"
	@echo "make resolve      do the pinned versions go together, from a package index alone?"
	@echo "make lint | format | docs | clean"

$(RUN):
	@echo "Creating a virtual environment in $(VENV) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else "Python 3.10 or newer is needed, got %d.%d; set PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.run: pyproject.toml constraints.txt | $(RUN)
	@$(PINS)
	@echo "Installing resel_torchrl and what it runs on (once) ..."
	@$(INSTALL) --editable ".[cpu,plot]"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PINS)
	@echo "Installing the simulators and the development tools (once, about 300 MB) ..."
	@$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $@

quickstart: $(VENV)/.run
	$(RUN) recipes/quickstart.py

test: $(VENV)/.dev lint
	$(RUN) -m pytest --numprocesses 2 -m "not slow and not gpu"
	@$(MAKE) --no-print-directory docs

# Processors round differently. PyTorch, oneDNN and Numba take the instructions that these name.
test-avx2: $(VENV)/.dev
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 NUMBA_CPU_NAME=haswell \
	    $(RUN) -m pytest --numprocesses 2 -m "not slow and not gpu" --ignore-glob "tests/ops/*triton*" --ignore tests/ops/interpreted \
	    tests/modules tests/objectives tests/ops tests/optim tests/replay tests/test_documented_code.py

# With no setting of this machine but its certificates, so that nothing that only it has can help.
resolve: $(RUN)
	env -i PATH="$$PATH" HOME="$$(mktemp -d)" PIP_CONFIG_FILE=/dev/null $${PIP_CERT:+PIP_CERT="$$PIP_CERT"} \
	    $(RUN) -m pip install --dry-run --ignore-installed --quiet --disable-pip-version-check \
	    --constraint constraints.txt ".[$(EXTRAS),wandb]"

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
