# `make` alone lists the targets.  STACK=onedl picks the maintained forks instead of OpenMMLab's last releases.
STACK ?= openmmlab
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)

ifeq ($(STACK),openmmlab)
  VENV ?= .venv
  DEMO_DIR ?= work_dirs/demo
else
  VENV ?= .venv-$(STACK)
  DEMO_DIR ?= work_dirs/demo-$(STACK)
endif
DEMO_CONFIG = configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py
RUN = $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "  options: STACK=openmmlab|onedl  PYTHON=python3.11  VENV=DIR  PYTEST_ARGS='-k NAME'  DEMO_DIR=DIR"

setup:  ## make the virtual environment and install everything (at once when that is done)
	@$(or $(PYTHON),python3) tools/dev/bootstrap.py --stack $(STACK) --venv $(VENV)

demo: setup  ## train and evaluate Mask R-CNN with a nano backbone on the embedded data, with pictures and a table
	$(RUN) tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR)
	$(RUN) tools/analysis_tools/report_run.py $(DEMO_DIR)
	@echo "To run the tools yourself, activate the environment: source $(VENV)/bin/activate"

test: setup  ## run the tests, on up to four cores at once
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: setup  ## check the code's style
	$(RUN) -m ruff check .

docs: setup  ## build the site of docs/ into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean:  ## delete caches and build products; environments and work_dirs stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
