# The course's commands. `make help` lists them.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest supported Python on the path; `make book PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
JOBS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install book test unit notebooks portable lint bench results execute clean

help:  ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Make the environment in .venv (the other commands do it themselves)

# Only a finished installation leaves the stamp, so a broken one is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "The course needs Python 3.11, 3.12 or 3.13 (TensorFlow has no other)." \
		"Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; }
	@echo "Making the environment in $(VENV) with $$($(PYTHON) --version): a few minutes, once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[book,test]'
	@touch $@

book: $(STAMP)  ## Build the book as HTML
	@$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@$(BIN)/python -m bncourse.notebooks site _build/html
	@echo "The book is built. Open it with a browser: file://$(CURDIR)/_build/html/index.html"

test: $(STAMP)  ## Run every test: code style, types, units, notebooks
	@$(MAKE) --no-print-directory lint unit notebooks

lint: $(STAMP)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy

unit: $(STAMP)  ## Run the unit tests, with coverage
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --cov --cov-report=term:skip-covered

notebooks: $(STAMP)  ## Check the notebooks, and compare every output with nbval
	@$(BIN)/python -m bncourse.notebooks check
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --nbval --nbval-current-env book

# NumPy may only be told to do without what this processor has.
define DISPATCHED
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*[name for name in __cpu_dispatch__ if __cpu_features__[name]])
endef
export DISPATCHED

portable: export ONEDNN_MAX_CPU_ISA = AVX2
portable: export TF_ENABLE_ONEDNN_OPTS = 0
portable: export OPENBLAS_CORETYPE = Haswell
portable: $(STAMP)  ## Compare the notebooks as another processor would compute them
	@NPY_DISABLE_CPU_FEATURES="$$($(BIN)/python -c "$$DISPATCHED")" $(MAKE) --no-print-directory notebooks

bench: $(STAMP)  ## Time the NumPy layer beside TensorFlow and Keras (RECORD=1 stores the result for the book)
	@$(BIN)/bncourse bench $(if $(RECORD),--record bncourse/results/speed.json)

results: $(STAMP)  ## Make the recorded results that are missing or no longer fit the code (needs MNIST; all of them take some hours)
	@$(BIN)/bncourse results make --jobs $(JOBS)
	@test -f bncourse/results/sigmoid-race.json || \
		$(BIN)/python -m bncourse.experiments.sigmoid_race bncourse/results/sigmoid-race.json

execute: $(STAMP)  ## Run chapters anew and store their outputs (CHAPTER=path, or all)
	@$(BIN)/python -m bncourse.notebooks execute $(CHAPTER)
	@$(BIN)/python -m bncourse.notebooks picture book/index.ipynb book/images/two-logs.png

clean:  ## Remove what was built; the environment stays
	rm -rf _build
