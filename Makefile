# Every target sets up what it needs: the environment .venv with the tested versions, and ngspice.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Cells flagged `spice` run wherever ngspice is found; asked late, because the setup may just have installed it.
FLAGS = $(shell command -v ngspice >/dev/null && echo spice)
# Without a GPU Triton's kernels run in its interpreter, which must be asked for before anything imports Triton.
INTERPRET = $(shell command -v nvidia-smi >/dev/null || echo TRITON_INTERPRET=1)
# Two processes, each with whole files: tests of one file share what is slow to make.
PYTEST = pytest -n 2 --dist loadfile
SUMS = find nbs analognn \( -name '*.ipynb' -o -name '*.py' \) -not -path '*/.*' | LC_ALL=C sort | xargs cksum

.NOTPARALLEL:
.PHONY: help setup demo test test-all sync notebooks docs lab bench wheel clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## the environment .venv (PYTHON= chooses the interpreter) and ngspice

.venv/installed: constraints.txt settings.ini setup.py
	@.ci/system $(PYTHON)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The tested versions need Python 3.11 or newer: choose one with PYTHON=")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[dev,docs,plots]'
	@touch $@

demo: setup ## the whole pipeline on a small network; ends with where the report lies
	analognn run --force --out runs/demo

test: sync notebooks ## package in step with notebooks, notebooks run as tests, pytest
	$(PYTEST)

test-all: sync wheel ## all that is slow too: every cell, every stored output, the wheel with its dependencies
	$(INTERPRET) nbdev_test --n_workers 2 --flags 'slow $(FLAGS)'
	python -m venv --clear build/wheel
	build/wheel/bin/pip install -q -c constraints.txt dist/*.whl
	build/wheel/bin/analognn run --force --out build/demo
	$(PYTEST) --slow

sync: setup
	@mkdir -p build; $(SUMS) > build/before; nbdev_export && nbdev_clean && $(SUMS) > build/after
	@diff build/before build/after || { echo 'Package and notebooks were out of step. They are exported and cleaned now: look at the changes and run this again.'; exit 1; }

notebooks: setup
	$(INTERPRET) nbdev_test --n_workers 2 --flags '$(FLAGS)'

docs: setup ## the site docs/_build/html, and README.md from nbs/index.ipynb
	python docs/build.py

lab: setup ## Jupyter
	jupyter lab nbs

bench: setup ## a benchmark: make bench NAME=...
	analognn bench $(NAME)

wheel: setup
	rm -rf build/lib dist
	python -m build -q --wheel

clean: ## removes what was built; the environment and the results in runs stay
	rm -rf _proc _docs docs/_build build dist .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
