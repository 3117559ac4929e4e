# `make help` lists the targets. A second call reuses the environment: it is made anew when pyproject.toml or
# constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SCALE ?= cpu
OUT ?= out
METHODS ?= weight_compander nap galore bone
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup report test check app lab peers clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.base: $(INPUTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.lab: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab]"
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,peers]"
	@touch $@

# fusion-bench imports its OPCM with transformers 4 only, which no other peer takes: an environment of its own;
# left free, pip goes back to a `datasets` that today's pyarrow cannot load, and takes minutes to find it
FUSION := $(VENV)/fusion
$(VENV)/.fusion: $(INPUTS)
	$(PYTHON) -m venv $(FUSION)
	$(FUSION)/bin/python -m pip install --quiet --disable-pip-version-check "$(shell grep '^torch==' constraints.txt)" -e ".[test]" fusion-bench==0.2.33 transformers==4.57.6 datasets==4.8.5 huggingface_hub==0.36.2 fsspec==2026.2.0
	$(FUSION)/bin/python -c "import fusion_bench.method.opcm.opcm_general"
	@touch $@

setup: $(VENV)/.base  ## make the environment

report: $(VENV)/.base  ## the main job: four methods, their claims and controls, one interactive HTML file in out/
	$(BIN)/wbench report compare $(METHODS) --scale $(SCALE) --out $(OUT)

test: $(VENV)/.test  ## the whole test suite
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.test  ## style, docstrings, types, import arrows, the README's table
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/wbench methods --markdown | $(BIN)/python tests/readme_table.py README.md

app: $(VENV)/.lab  ## the workbench as a web page, for people without Jupyter
	$(BIN)/wbench app

lab: $(VENV)/.lab  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

peers: $(VENV)/.peers $(VENV)/.fusion  ## install the peer packages and compare with them
	$(BIN)/python -m pytest -m peer -rs
	$(FUSION)/bin/python -m pytest -m peer -rs tests/methods/test_opcm.py

clean:  ## remove the environment, reports and recorded runs
	rm -rf $(VENV) $(OUT) .wbench
